"""How much a caller may ask for in a minute: requests, and tokens. Pure: time is an argument.

The generic cell rate algorithm (ITU-T I.371, annex A, for ATM cells; Brandur Leach's write-up, "Rate Limiting, Cells,
and GCRA", 2015, for HTTP): a bucket that fills steadily, kept as the one moment at which it is full again. What is
taken moves that moment on by its cost over the rate; it may be ahead of now by no more than the burst is worth. So
over any window no more passes than rate times window plus burst, when there is room again is known exactly, and a
bucket is one number, which Redis can keep as well (``shared`` has the same rules in Lua).

A request is charged the tokens that it is expected to take, and corrected to what it took when it has ended. One that
takes more than a whole burst passes when the bucket is full, and what is over is a debt: it would pass never otherwise.
Buckets are as many as limits that the keys file has had, so none is ever forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SLACK_S = 1e-6
"""Whoever waits as long as it was told passes, whatever floats make of the sum."""


class Rate(NamedTuple):
    """So many a minute, and so many at once: more than 0, both."""

    per_min: float
    burst: float

    @property
    def interval_s(self) -> float:
        """From one to the next."""
        return 60.0 / self.per_min


class Charge(NamedTuple):
    """What one request takes of one bucket. ``settles``: the cost is an estimate, and is corrected at the end."""

    bucket: str
    rate: Rate
    cost: float
    settles: bool = False


class Decision(NamedTuple):
    """Whether the charges were taken, all of them or none.

    Attributes:
        wait_s: until they could be; 0: they were.
        ahead_s: for each charge, until its bucket is full, what was taken included.
    """

    wait_s: float
    ahead_s: tuple[float, ...]

    def blocking(self, charges: Sequence[Charge]) -> Charge:
        """Which of them has to be waited for longest."""
        return max(zip(charges, self.ahead_s, strict=True), key=lambda each: over_s(*each))[0]


def over_s(charge: Charge, ahead_s: float) -> float:
    """How much too early a charge comes to a bucket that is full in ``ahead_s``; 0 or less: it fits."""
    return ahead_s + (min(charge.cost, charge.rate.burst) - charge.rate.burst) * charge.rate.interval_s


def remaining(rate: Rate, ahead_s: float) -> float:
    """What could be taken at once of a bucket that is full in ``ahead_s``."""
    return max(rate.burst - ahead_s / rate.interval_s, 0.0)


class Rates:
    """Buckets by name; one that was never heard of is full."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}

    def take(self, now: float, charges: Sequence[Charge]) -> Decision:
        """Take all of them, or none where one doesn't fit."""
        ahead_s = [max(self._full_at.get(charge.bucket, now) - now, 0.0) for charge in charges]
        wait_s = max(map(over_s, charges, ahead_s), default=0.0)
        if wait_s > SLACK_S:
            return Decision(wait_s, tuple(ahead_s))
        for i, (bucket, rate, cost, _) in enumerate(charges):
            ahead_s[i] += cost * rate.interval_s
            self._full_at[bucket] = now + ahead_s[i]
        return Decision(0.0, tuple(ahead_s))

    def settle(self, now: float, charge: Charge, used: float) -> None:
        """A charge that was taken has turned out to be ``used``."""
        more_s = (used - charge.cost) * charge.rate.interval_s
        full_at = self._full_at.get(charge.bucket, now)
        # A bucket that has filled since doesn't pay what is over out of the time in which it was full.
        self._full_at[charge.bucket] = max(full_at, now) + more_s if more_s > 0 else full_at + more_s

    def put(self, now: float, bucket: str, ahead_s: float) -> None:
        """Somebody else keeps this bucket, and says that it is full in ``ahead_s``."""
        self._full_at[bucket] = now + ahead_s


def duration(seconds: float) -> str:
    """A time as OpenAI writes it in its headers, and Go does: ``6m0s``, ``1.5s``, ``20ms``, ``0s``."""
    ms = round(max(seconds, 0.0) * 1000)
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, left = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    lead = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{lead}{left / 1000:g}s"
