"""When to come back, and how long to wait still: the measured ``Retry-After``, the estimates of the line.

Learns how long slots are held, so at which rate they come free (Little's law: rate = slots / mean hold), and
books each return: those who are told to come back are spread over the time in which there will be room. Apart
from the ledger because estimates may be wrong and books may not. It tells the true estimate; what a header
may carry is the API layer's business.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import exp, inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

from headgate.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headgate.gate.entries import Ticket

SLOT_S = 1.0  # before anything was measured: a slot is taken to come free each second
WAKE_S = 5.0  # where nobody knows when an engine will be ready, or it should have been already
LEAST_S = 0.001
# A client that doesn't listen is refused again and again, and books each time; the others must not pay for it
# with hours. Beyond this nobody keeps a booking anyway.
HORIZON_S = 600.0
_SURE = 32  # completions before a forecast may cost somebody the place, and before they alone are gone by
FIRSTS = 20  # first tokens that are remembered at least,
FIRSTS_S = 10.0  # and for so long: where many are begun at once they come in waves, slow ones after quick ones
FIRST_SPREAD = 2.4  # standard deviations over the mean: as far as three mean deviations of what is evenly scattered
APART = 1.3  # returns are booked further apart than slots come free: one that is late must not meet the next
HOPE = 0.75  # of what a forecast says, where it may cost somebody the place
_MEMORY = 64  # slots' worth of completions that the mean remembers
_PLAYED = 4000  # slots that the line may need for its grants to be played through, which costs a µs each
LEAST_OF_HOLD, MOST_OF_HOLD = 0.5, 16.0  # what the tempo of tokens may make of the mean hold, times
LONG = 1.5  # mean deviations over the mean
_RANDOM = 0.736  # mean deviation over mean where an end may come at any time (exponential): 2/e


class View(NamedTuple):
    """The gate at the moment of a refusal, as far as an estimate needs it.

    Attributes:
        slots: those of the ready engines, or of those that were ready last.
        holders: the tickets that hold them, oldest first.
        weight: slots that the refused one needs.
        line_weight: slots that all who wait need.
        head_weight: slots that the head of the line needs; 1 where the line isn't full, which alone asks for it.
        over: slots that are held beyond those that there are, since there were more before.
        places: tickets that must leave the line before one of the refused one's size finds a place in it.
        wake_s: seconds until an engine should be ready; None: unknown.
        drain_s: seconds until the drain must be over; None: there is none.
    """

    slots: int
    holders: Iterable[Ticket]
    ready: bool
    weight: int
    line_weight: int
    head_weight: int
    over: int
    places: int
    wake_s: float | None
    drain_s: float | None


class Forecast:
    """How long slots are held, and how far returns are booked. Every ``now`` is real time in seconds."""

    __slots__ = (
        *("_booked_until", "_first_at", "_firsts", "_firsts_s", "_firsts_s2"),
        *("_hold_s", "_mass", "_off_s", "_patience", "_served", "_token_s", "_token_then_s"),
    )

    def __init__(self) -> None:
        self._hold_s = 0.0
        self._off_s = 0.0
        self._mass = 0
        self._served = 0
        self._patience = 1.0
        self._first_at = -inf
        self._firsts = self._firsts_s = self._firsts_s2 = 0.0
        self._booked_until = 0.0
        self._token_s = self._token_then_s = 0.0

    def learn(self, held_s: float, weight: int) -> None:
        """``weight`` slots came free after ``held_s``: a running mean first, exponentially weighted later."""
        self._served += 1
        mass = self._mass + weight
        self._mass = mass if mass < _MEMORY else max(weight, _MEMORY)
        off_s = held_s - self._hold_s
        self._hold_s += off_s * weight / self._mass
        if self._token_s:
            then_s = self._token_then_s or self._token_s
            self._token_then_s = then_s + (self._token_s - then_s) * weight / self._mass
        self._off_s += ((off_s if off_s > 0 else -off_s) - self._off_s) * weight / self._mass

    def tempo(self, token_s: float) -> None:
        """The tokens of a sequence come so far apart now; seconds, more than 0.

        How long slots are held is known from those that have ended, so of the load that was. Where it changes, the
        tokens tell at once by how much: an engine that computes ten times as much at once is slower with each.
        """
        self._token_s = token_s

    @property
    def hold_s(self) -> float:
        """The mean; 0 before anything was measured."""
        return self._hold_s

    @property
    def long_s(self) -> float:
        """How long a long one holds: mean and a deviation and a half. Of evenly spread times nearly the longest."""
        return self._hold_s + LONG * self._off_s

    @property
    def is_sure(self) -> bool:
        """Whether enough was seen to refuse somebody for it."""
        return self._served >= _SURE

    def learn_patience(self, *, stayed: bool) -> None:
        """One who stood in the line got its slots, or left by itself before."""
        self._patience += ((1.0 if stayed else 0.0) - self._patience) / _MEMORY

    def behind_s(self, before: int, slot_s: float) -> float:
        """How long a wait behind so many others takes, if as many of them leave as do."""
        return (before * self._patience + 1) * slot_s

    def learn_first(self, now: float, first_s: float) -> float:
        """The engine gave a first token ``first_s`` after the grant; how long that takes, all but the slowest.

        Mean and deviation, as TCP keeps its round-trip time (Jacobson, 1988), but of what came in the last seconds too,
        and not of the last few alone: those are all of one wave, and the next is a slower one.
        """
        kept = max(exp((self._first_at - now) / FIRSTS_S), 1 - 1 / FIRSTS)
        self._first_at = now
        self._firsts = self._firsts * kept + 1
        self._firsts_s = self._firsts_s * kept + first_s
        self._firsts_s2 = self._firsts_s2 * kept + first_s * first_s
        mean_s = self._firsts_s / self._firsts
        if self._firsts < 2:  # one says nothing of how far they are apart
            return 2 * mean_s
        return mean_s + FIRST_SPREAD * sqrt(max(self._firsts_s2 / self._firsts - mean_s * mean_s, 0.0))

    def slot_s(self, now: float, slots: int, holders: Iterable[Ticket], *, measured: bool = False) -> float:
        """Seconds between one slot's coming free and the next's.

        Args:
            slots: over how many slots work is spread, 1 at least.
            holders: what runs, oldest first. Those that have run for longer than the mean count with the time
                that they have run so far: where work became longer, or hangs, no completion would tell.
            measured: as those held who have ended, whatever the tempo of tokens says.
        """
        mean_s = (self._hold_s if measured else self._mean_s(holders)) or SLOT_S * slots
        total_s, mass = mean_s * self._mass, self._mass
        for ticket in holders:
            age_s = now - ticket.granted_at
            if age_s <= mean_s:
                break
            total_s += age_s * ticket.weight
            mass += ticket.weight
        return max((total_s / mass if mass else mean_s) / slots, LEAST_S)

    def _mean_s(self, holders: Iterable[Ticket]) -> float:
        """How long slots are held as tokens come now; 0 where nothing is known.

        Until enough have ended to be sure of, what those that run are expected to take counts for the rest of them: the
        first to end may be a client's probe for one token.
        """
        if not self._token_s:
            return self._hold_s
        slower = self._token_s / (self._token_then_s or self._token_s)
        held_s = self._hold_s * min(max(slower, LEAST_OF_HOLD), MOST_OF_HOLD)
        if self._served >= _SURE:
            return held_s
        answers = [ticket.claim.answer for ticket in holders]
        if not answers:
            return held_s
        first_s = self._firsts_s / self._firsts if self._firsts else 0.0
        expected_s = first_s + self._token_s * sum(answers) / len(answers)
        return expected_s + (held_s - expected_s) * self._served / _SURE

    def hopeful_s(self, now: float, before: int, slots: int, holders: Iterable[Ticket]) -> float:
        """How long a wait behind so many takes at least, for all that is known: it may cost somebody the place.

        That tokens come slower now is a reason to come back later, and none to break a promise: the less of both.
        """
        slot_s = min(self.slot_s(now, slots, holders), self.slot_s(now, slots, holders, measured=True))
        return HOPE * self.behind_s(before, slot_s)

    def waits_s(self, now: float, view: View, weights: Sequence[int]) -> list[float]:
        """Seconds until each of those who wait, in the order of the line, has slots of its weight.

        Two answers, mixed by what was learned. Where all hold for the same time, slots come free as they were
        taken: those of a burst together. Where an end may come at any time, they come free at the mean rate.
        """
        slots = max(view.slots, 1)
        slot_s = self.slot_s(now, slots, view.holders)
        hold_s = slot_s * slots
        if view.ready:
            wake_s = 0.0
            # How long those stay who have stayed for longer than the mean, nobody knows: a slot's time, each moment.
            free_s = [
                max(hold_s - (now - ticket.granted_at), slot_s) for ticket in view.holders for _ in range(ticket.weight)
            ]
            free = max(slots - len(free_s), 0)
            free_s = sorted([0.0] * free + free_s)[-slots:]  # of an engine that became smaller, the first are lost
        else:
            wake_s = _wake_s(view)
            free_s = [wake_s] * slots
            free = slots
        by_rate: list[float] = []
        needed = -free
        for weight in weights:
            needed += min(weight, slots)
            by_rate.append(wake_s + max(needed, 0) * slot_s)
        chance = min(self._off_s / (_RANDOM * self._hold_s), 1.0) if self._hold_s else 1.0
        if chance == 1.0 or needed > _PLAYED:
            return by_rate
        played = _played_s(free_s, hold_s, [min(weight, slots) for weight in weights])
        return [chance * rate_s + (1.0 - chance) * play_s for rate_s, play_s in zip(by_rate, played, strict=True)]

    def book(self, now: float, room_s: float, spread_s: float) -> float:
        """Seconds after which to come back, ``room_s`` from now or later.

        The virtual scheduling of GCRA (ITU-T I.371): bookings are a backlog that is worked off in real time,
        each refusal comes after it and adds ``spread_s`` to it.
        """
        backlog_s = max(self._booked_until - now, 0.0)
        self._booked_until = now + min(backlog_s + spread_s, HORIZON_S)
        return max(room_s + backlog_s, LEAST_S)

    def retry_after_s(self, now: float, reason: Reason, view: View) -> float:
        """Seconds, more than 0, after which a request refused for ``reason`` should come back."""
        if reason is Reason.DRAINING:  # the next process has an empty line and bookings of its own
            return view.drain_s if view.drain_s is not None and view.drain_s > 0 else SLOT_S
        slot_s = self.slot_s(now, view.slots, view.holders) if view.slots else 0.0
        return self.book(now, first_room_s(reason, view, slot_s), view.weight * slot_s * APART)


def _played_s(free_s: list[float], hold_s: float, weights: Sequence[int]) -> list[float]:
    """When each gets its slots if they come free at these times, in order, and each holds its own for ``hold_s``."""
    starts_s: list[float] = []
    start_s = 0.0
    for weight in weights:  # each at most as many as there are
        for _ in range(weight):
            start_s = max(start_s, heappop(free_s))
        for _ in range(weight):
            heappush(free_s, start_s + hold_s)
        starts_s.append(start_s)
    return starts_s


def _wake_s(view: View) -> float:
    return view.wake_s if view.wake_s is not None and view.wake_s > 0 else WAKE_S


def first_room_s(reason: Reason, view: View, slot_s: float) -> float:
    """Seconds until what the request lacked will be there for the first time, bookings aside.

    Args:
        reason: what it lacked: a slot, a place in the line, an engine, time.
        view: the gate now.
        slot_s: seconds between one slot's coming free and the next's.
    """
    wake_s = _wake_s(view)
    if reason is Reason.ENGINE_UNAVAILABLE:
        return wake_s
    if reason is Reason.SLOTS_BUSY:
        slots = view.weight
    elif reason is Reason.QUEUE_FULL:  # each grant makes a place
        slots = view.places * view.head_weight
    else:  # a promised wait is over: everybody who waits now would be served before
        slots = view.line_weight + view.weight
    return (slots + view.over) * slot_s + (0.0 if view.ready else wake_s)
