"""The gate that requests await: asyncio around the ledger.

One future for each waiter, one timer for all. It decides nothing: every call asks the ledger and carries out
what it returns. Apart from the ledger because here are the races of cancellation, and there the rules. One
event loop owns a gate; nothing here may be called from another thread.

Prior art: trio's ``CapacityLimiter`` (names, a slot that belongs to its holder), httpcore's connection pool
(a wake-up is the result of a reassignment, done elsewhere).
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

from headgate.errors import Refusal
from headgate.gate.entries import NOBODY
from headgate.gate.outcomes import Granted, Refused, Verdict, Waiting
from headgate.gate.sentences import sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.errors import Reason
    from headgate.gate.entries import Claim, Holder, Statistics, Ticket, Waiter
    from headgate.gate.ledger import Ledger
    from headgate.gate.slots import Ended

# uvloop rounds a timer to the millisecond, so it could come before the deadline, find nothing due and spin.
_LATE_S = 0.001


class Lease:
    """Slots held on ``engine`` until ``release``.

    ``waited_s`` is what the request had spent in the line, ``waking_s`` what it had waited for an engine.
    """

    __slots__ = ("_gate", "_ticket", "engine", "waited_s", "waking_s")

    def __init__(self, gate: Gate, granted: Granted) -> None:
        self._gate: Gate | None = gate
        self._ticket, self.engine, self.waited_s, self.waking_s = granted

    @property
    def weight(self) -> int:
        """How many slots."""
        return self._ticket.weight

    @property
    def predicted_s(self) -> float | None:
        """The wait that was forecast for it; None where it didn't wait, or too little was known."""
        return self._ticket.predicted_s

    @property
    def for_own(self) -> bool:
        """Whether it had to wait for others of its own key."""
        return self._ticket.for_own

    @property
    def aside_s(self) -> float:
        """How long it had to, of ``waited_s``."""
        return self._ticket.aside_s

    @property
    def released(self) -> bool:
        """Whether the slots were given back."""
        return self._gate is None

    def release(self) -> None:
        """Give the slots back, at once; the first call does, the others do nothing."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._leave(self._ticket)

    def first_token(self) -> None:
        """The engine has begun to answer: what a grant must leave time for is learned from it."""
        gate = self._gate
        if gate is not None:
            now = gate._clock()
            gate._ledger.first_token(now, self._ticket)
            if gate.waiting:
                gate._arm(now)  # whoever was next may be late sooner, and its turn another's

    def __repr__(self) -> str:
        state = "released" if self.released else "held"
        return f"<Lease {self._ticket.number} on {self.engine}: {state}, waited {self.waited_s:.3f} s>"


class Gate:
    """Slots and line for one event loop.

    Args:
        ledger: the books; nobody else may write to them.
        clock: real time in seconds that never goes back.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._futures: dict[Ticket, asyncio.Future[Verdict]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._idle: list[asyncio.Future[None]] = []

    async def acquire(
        self,
        *,
        weight: int = 1,
        size_bytes: int = 0,
        request_timeout_s: float = inf,
        after: Lease | None = None,
        kept: Lease | None = None,
        claim: Claim = NOBODY,
        who: object = None,
        on_wait: Callable[[], object] | None = None,
    ) -> Lease:
        """Slots for one request, now or after a wait in the line.

        Args:
            weight: slots that it needs; at most the largest engine's are taken.
            size_bytes: what it keeps in memory while it waits.
            request_timeout_s: what is left of its whole time, waking excluded.
            after: the lease whose engine died before the first byte. It is released here, and the request goes
                to the head of the line with the time that it has spent there already.
            kept: the lease that was taken from it for somebody more urgent, released already. It has a place in the
                line, full or not, with the time that it has spent there.
            claim: what its place in the line depends on.
            on_wait: called when it stands in the line.
            who: the caller's own, handed out by ``held`` and ``line`` for as long as it is one of theirs.

        Raises:
            Refusal: with the ledger's reason, a sentence, and when to come back.
        """
        ledger, now = self._ledger, self._clock()
        if ledger.has_line:
            self._settle(now, ledger.tick(now))  # time alone can change who is next
        again = kept or after
        if again is None:
            decision = ledger.offer(now, weight, size_bytes, request_timeout_s, claim=claim, who=who)
        else:
            decision = ledger.offer(
                now,
                weight,
                size_bytes,
                request_timeout_s,
                claim=claim,
                front=kept is None,
                kept=kept is not None,
                waited_s=again.waited_s,
                waking_s=again.waking_s,
                aside_s=again.aside_s,
                who=who,
            )
        if isinstance(decision, Waiting):
            return await self._wait(now, decision, after, on_wait)
        if after is not None:
            after.release()
        if ledger.has_line:
            self._settle(now, ledger.tick(now))
        return self._lease(decision)

    def acquire_nowait(self, *, weight: int = 1, claim: Claim = NOBODY, who: object = None) -> Lease | None:
        """Slots at once, or None with nothing changed: the request would have to wait, or be refused."""
        if claim.most is not None or not self._ledger.fits(weight):
            return None
        decision = self._ledger.offer(self._clock(), weight, claim=claim, who=who)
        assert isinstance(decision, Granted)
        return Lease(self, decision)

    def turn_away(self, reason: Reason, weight: int = 1) -> Refusal:
        """A refusal for a reason that isn't the gate's own, with an honest time to come back."""
        refused = self._ledger.turn_away(self._clock(), reason, weight)
        return Refusal(reason, sentence(refused, self._ledger), retry_after_s=refused.retry_after_s)

    def settle(self, lease: Lease, tokens: float) -> None:
        """What a lease served took so many tokens, which its caller is charged; it may be released already."""
        ledger = self._ledger
        ledger.settle(lease._ticket, tokens)
        if ledger.has_line:
            now = self._clock()
            self._settle(now, ledger.tick(now))
            self._arm(now)

    def resize(self, engine: str, slots: int) -> None:
        """An engine has ``slots`` from now on; 0: it is not ready."""
        now = self._clock()
        self._settle(now, self._ledger.resize(now, engine, slots))
        self._arm(now)

    def pace(self, engine: str, pace_s: float) -> None:
        """An engine's slots come free no sooner after one another than this; 0: as they come."""
        now = self._clock()
        self._settle(now, self._ledger.pace(now, engine, pace_s))
        self._arm(now)

    def tempo(self, token_s: float) -> None:
        """The tokens of a sequence come so far apart now, on all engines in the mean; seconds, more than 0."""
        self._ledger.tempo(token_s)

    def expect(self, wake_s: float | None) -> None:
        """An engine should be ready in ``wake_s`` seconds (None: unknown), which the refused are told."""
        self._ledger.expect(self._clock(), wake_s)

    def close(self, limit_s: float) -> None:
        """Drain: refuse newcomers, serve the line for as long as an engine is ready."""
        now = self._clock()
        self._settle(now, self._ledger.close(now, limit_s))

    def evict(self) -> None:
        """The drain's limit is reached: refuse all who wait, for good."""
        now = self._clock()
        self._settle(now, self._ledger.evict(now))

    async def wait_idle(self) -> None:
        """Return when nothing runs and nobody waits."""
        while not self._ledger.idle:
            future = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future

    def statistics(self) -> Statistics:
        """The picture of slots and line; O(n) in the length of the line."""
        return self._ledger.statistics(self._clock())

    @property
    def slots(self) -> int:
        """Slots of all ready engines together."""
        return self._ledger.slots

    @property
    def active(self) -> int:
        """Slots that are held."""
        return self._ledger.active

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return self._ledger.waiting

    @property
    def wanting(self) -> int:
        """Those of them that wait for slots, and not for others of their key."""
        return self._ledger.wanting

    def held_on(self, engine: str) -> int:
        """Slots that are held on one engine."""
        return self._ledger.held_on(engine)

    def grants_what_is_given_back(self, engine: str) -> bool:
        """Whether a slot that comes free on one engine can be granted again."""
        return self._ledger.grants_what_is_given_back(engine)

    def held_back_on(self, engine: str) -> int:
        """Slots of one engine that came free and are held back for its pace."""
        return self._ledger.held_back_on(engine)

    def ended_on(self, engine: str) -> Ended:
        """How long those held slots on one engine who have ended."""
        return self._ledger.ended_on(engine)

    def held(self, most: int) -> list[Holder]:
        """Who holds slots, the oldest first; where there are more than ``most``, the newest of them."""
        return self._ledger.held(self._clock(), most)

    def long_hold_s(self) -> float:
        """How long a long one holds its slots; 0 before anything is known."""
        return self._ledger.long_hold_s

    def outlook(self, most: int) -> tuple[list[Waiter], float | None]:
        """The first ``most`` of those who wait, in the order in which they will be served, and seconds that a
        newcomer would wait for its slot; None where nobody can tell."""
        return self._ledger.outlook(self._clock(), most)

    def __repr__(self) -> str:
        return f"<Gate {self._ledger!r}>"

    async def _wait(
        self, now: float, waiting: Waiting, after: Lease | None, on_wait: Callable[[], object] | None
    ) -> Lease:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        ticket = waiting.ticket
        self._futures[ticket] = future
        if waiting.displaced is not None:
            self._settle(now, [waiting.displaced])
        self._settle(now, self._ledger.tick(now))
        if on_wait is not None and not future.done() and not self._ledger.stands_aside(ticket):
            on_wait()
        self._arm(now)
        if after is not None:
            after.release()  # after the offer: nobody takes the slot in between
        try:
            verdict = await future
        except BaseException:
            # Cancelled while it stood in the line, or between the verdict and this task's waking: then the
            # future has its result already, and a slot in it would be lost with the exception.
            if self._futures.pop(ticket, None) is not None or _granted(future):
                self._leave(ticket)
            raise
        return self._lease(verdict)

    def _lease(self, verdict: Verdict) -> Lease:
        if isinstance(verdict, Refused):
            what, ticket = sentence(verdict, self._ledger), verdict.ticket
            back_s, aside_s = verdict.retry_after_s, ticket.aside_s
            raise Refusal(verdict.reason, what, retry_after_s=back_s, for_own=ticket.for_own, aside_s=aside_s)
        return Lease(self, verdict)

    def _leave(self, ticket: Ticket) -> None:
        now = self._clock()
        self._settle(now, self._ledger.leave(now, ticket))
        if self._ledger.has_line:
            self._arm(now)  # its slot may be held back

    def _settle(self, now: float, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            future = self._futures.pop(verdict.ticket)
            if not future.done():
                future.set_result(verdict)
            elif isinstance(verdict, Granted):
                # Its task was cancelled and hasn't run since. The list grows while it is walked, as lists may.
                verdicts += self._ledger.leave(now, verdict.ticket)
        if self._idle and self._ledger.idle:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()

    def _arm(self, now: float) -> None:
        """Have the timer go off no later than the next deadline; one that comes too early does no harm."""
        deadline = self._ledger.next_deadline(now)
        if deadline is None or deadline == inf or deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_later(max(deadline - now, 0.0) + _LATE_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._timer_at = inf
        now = self._clock()
        self._settle(now, self._ledger.tick(now))
        self._arm(now)


def _granted(future: asyncio.Future[Verdict]) -> bool:
    return future.done() and not future.cancelled() and isinstance(future.result(), Granted)
