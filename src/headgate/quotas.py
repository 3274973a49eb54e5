"""What a key may ask for in a minute, joined: its limits, the buckets, and what its caller is told of them.

``gate.rates`` reckons, ``gate.shared`` does the same in a Redis for several gateways. While Redis answers, its word
counts, and the buckets here follow it; where it doesn't, these go on from there, each gateway by itself. Apart from
``flow`` because whoever has no limits never comes here, and from ``gate`` because a rate is refused before the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import floor
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import Metric

from headgate.errand import as_task
from headgate.errors import Reason, Refusal
from headgate.gate.rates import Charge, Decision, Rate, Rates, duration, remaining
from headgate.gate.sentences import about
from headgate.telemetry.metrics import gauge

if TYPE_CHECKING:
    from headgate.gate.shared import Shared
    from headgate.keys import Key

Headers = list[tuple[bytes, bytes]]

_ALL = "requests"


def _bucket(kind: str, key: Key, per_min: float) -> str:
    """With the rate in its name: what is owed is kept as a time, and would be as long at a hundred times the rate."""
    return f"{kind}:{key.name}:{per_min:.15g}"


class Taken(NamedTuple):
    """What a request was charged, and how the buckets stood then; ``shared``: those that several gateways have."""

    charges: Sequence[Charge]
    decision: Decision
    shared: bool = False

    def headers(self) -> Headers:
        """OpenAI's headers, for the limits that are the caller's own."""
        headers: Headers = []
        for charge, ahead_s in zip(self.charges, self.decision.ahead_s, strict=True):
            kind, colon, _ = charge.bucket.partition(":")
            if colon:
                left, full_in = floor(remaining(charge.rate, ahead_s) + 1e-6), duration(ahead_s)
                headers += [
                    (f"x-ratelimit-limit-{kind}".encode(), f"{charge.rate.per_min:.15g}".encode()),
                    (f"x-ratelimit-remaining-{kind}".encode(), b"%d" % left),
                    (f"x-ratelimit-reset-{kind}".encode(), full_in.encode()),
                ]
        return headers


class Quotas:
    """Every caller's limits, for one gateway.

    Args:
        clock: seconds, monotonic.
        requests_per_min: over all callers; None: no limit.
        shared: keeps the buckets for several gateways; None: each by itself.
    """

    def __init__(
        self, clock: Callable[[], float], *, requests_per_min: float | None = None, shared: Shared | None = None
    ) -> None:
        self._clock = clock
        self._rates = Rates()
        self._overall = Rate(requests_per_min, max(requests_per_min, 1.0)) if requests_per_min is not None else None
        self._shared = shared

    def charges(self, key: Key | None, tokens: Callable[[], float] | None) -> Sequence[Charge]:
        """What a request takes of which buckets; nothing where nothing limits it.

        Args:
            key: None: it has no limits of its own.
            tokens: what the request is expected to take, asked only where it counts; None: it takes none.
        """
        charges: list[Charge] = []
        if key is not None:
            if key.requests_per_min is not None:
                rate = Rate(key.requests_per_min, key.requests_burst or max(key.requests_per_min, 1.0))
                charges.append(Charge(_bucket("requests", key, key.requests_per_min), rate, 1.0))
            if key.tokens_per_min is not None and tokens is not None:
                rate = Rate(key.tokens_per_min, key.tokens_burst or max(key.tokens_per_min, 1.0))
                charges.append(Charge(_bucket("tokens", key, key.tokens_per_min), rate, tokens(), settles=True))
        if self._overall is not None:
            charges.append(Charge(_ALL, self._overall, 1.0))
        return charges

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """Take all of them or none; ``refusal`` says what to do about none."""
        decision = None
        if self._shared is not None and self._shared.up:
            await as_task()
            decision = await self._shared.take(charges)
        now = self._clock()
        if decision is None:
            return Taken(charges, self._rates.take(now, charges))
        for charge, ahead_s in zip(charges, decision.ahead_s, strict=True):
            self._rates.put(now, charge.bucket, ahead_s)
        return Taken(charges, decision, shared=True)

    def settle(self, taken: Taken, tokens: float) -> None:
        """A request whose charges were taken has ended, and took so many tokens."""
        for charge in taken.charges:
            if charge.settles:
                self._rates.settle(self._clock(), charge, tokens)
                if self._shared is not None and taken.shared:  # what they were never charged they don't give back
                    self._shared.settle(charge, tokens)

    def start(self) -> None:
        """Look for Redis, where there is to be one."""
        if self._shared is not None:
            self._shared.start()

    async def stop(self) -> None:
        """Ask Redis no more."""
        if self._shared is not None:
            await self._shared.stop()

    def status(self) -> dict[str, object]:
        """For ``/status``."""
        return {
            "requests_per_min": self._overall.per_min if self._overall is not None else None,
            "redis": None if self._shared is None else "up" if self._shared.up else "down",
        }

    def states(self) -> Iterator[Metric]:
        """For a scrape."""
        if self._shared is not None:
            yield gauge(
                "api_redis_up",
                "1 while Redis answers and rates are shared between gateways; else each limits by itself.",
                float(self._shared.up),
            )


def refusal(taken: Taken) -> Refusal | None:
    """The refusal that ``taken`` calls for; None where the charges were taken."""
    wait_s = taken.decision.wait_s
    if not wait_s:
        return None
    charge = taken.decision.blocking(taken.charges)
    kind, colon, rest = charge.bucket.partition(":")
    name = rest.partition(":")[0]
    if not colon:
        what = f"The gateway takes {charge.rate.per_min:.15g} requests a minute."
    elif kind == "tokens":
        what = (
            f"The key `{name}` may use {charge.rate.per_min:.15g} tokens a minute, prompts and answers, and this "
            f"request is expected to take {charge.cost:.0f}."
        )
    else:
        what = f"The key `{name}` may send {charge.rate.per_min:.15g} requests a minute."
    return Refusal(Reason.RATE_LIMITED, f"{what} Try again in about {about(wait_s)}.", retry_after_s=wait_s)
