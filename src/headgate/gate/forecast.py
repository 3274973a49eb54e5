"""When to come back, and how long to wait still: the measured ``Retry-After``, the estimates of the line.

From how long slots are held (``hold_times``) it knows at which rate they come free (Little's law: rate = slots / mean
hold), and it books each return: those who are told to come back are spread over the time in which there will be room.
Apart from the ledger because estimates may be wrong and books may not. It tells the true estimate; what a header may
carry is the API layer's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from headgate.errors import Reason
from headgate.gate.entries import Ticket
from headgate.gate.hold_times import LEAST_S, MEMORY, SLOT_S, HoldTimes

WAKE_S = 5.0  # where nobody knows when an engine will be ready, or it should have been already
# A client that doesn't listen is refused again and again, and books each time; the others must not pay for it
# with hours. Beyond this nobody keeps a booking anyway.
HORIZON_S = 600.0
APART = 1.3  # returns are booked further apart than slots come free: one that is late must not meet the next;
APART_BY_CHANCE = 0.4  # and so much more where an end may come at any time
HOPE = 0.75  # of what a forecast says, where it may cost somebody the place
_PLAYED = 4000  # slots that the line may need for its grants to be played through, which costs a µs each


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
    """What is told from the times that slots are held, and how far returns are booked. Every ``now`` is real time."""

    __slots__ = ("_booked_until", "_holds", "_patience")

    def __init__(self, holds: HoldTimes) -> None:
        self._holds = holds
        self._patience = 1.0
        self._booked_until: dict[str, float] = {}

    def learn_patience(self, *, stayed: bool) -> None:
        """One who stood in the line got its slots, or left by itself before."""
        self._patience += ((1.0 if stayed else 0.0) - self._patience) / MEMORY

    def newcomer_s(
        self, now: float, ahead: float, length: float, weight: int, slots: int, holders: Iterable[Ticket]
    ) -> tuple[float, float]:
        """How long a newcomer waits for its slots, if as many of those before it leave as do; and at least.

        The latter may cost somebody the place, so it is what a hopeful one would say. That tokens come slower now is a
        reason to come back later, and none to break a promise: there it is the less of both.

        Args:
            ahead: slots that those before it need.
            length: theirs, in the mean.
            weight: slots that it needs.
            slots, holders: those of the ready engines, and who holds them, oldest first.
        """
        holds = self._holds
        now_s = holds.now_s(holders)
        slot_s = holds.slot_s(now, slots, holders, mean_s=now_s)
        ahead = ahead * self._patience + weight - 1
        # One whose time is known is halfway through it in the mean; of many the next to end is near its end anyway.
        halfway = (slots + holds.chance) / (slots + 1)
        turns = _behind(ahead, ahead * length, slots) + halfway
        least_s = slot_s
        if now_s > holds.mean_s:
            least_s = min(slot_s, holds.slot_s(now, slots, holders, mean_s=holds.mean_s))
        return turns * slot_s, HOPE * turns * least_s

    def waits_s(self, now: float, view: View, line: Sequence[tuple[int, float]]) -> list[float]:
        """Seconds until each of those who wait, in the order of the line, has its slots.

        Args:
            line: how many slots each needs, and its ``length``.

        Two answers, mixed by what was learned. Where it is known how long each holds, slots come free as they were
        taken: those of a burst together. Where an end may come at any time, they come free at the mean rate.
        """
        holds, slots = self._holds, max(view.slots, 1)
        slot_s = holds.slot_s(now, slots, view.holders)
        hold_s = slot_s * slots
        line = [(min(weight, slots), length) for weight, length in line]
        wake_s = 0.0 if view.ready else _wake_s(view)
        free_s: list[float] = []
        for ticket in view.holders if view.ready else ():
            left_s = hold_s * holds.length(ticket.claim.answer) - (now - ticket.granted_at)
            # How long those stay who have stayed for longer than they should nobody knows: a slot's time, each moment.
            free_s += [max(left_s, holds.rest_s) if left_s > 0 else slot_s] * ticket.weight
        free = slots - len(free_s)
        by_rate = _by_rate(free, slots, line)
        chance = holds.chance
        if chance == 1.0 or sum([weight for weight, _ in line]) > _PLAYED:
            return [wake_s + turns * slot_s for turns in by_rate]
        free_s = sorted([0.0] * free + free_s)[-slots:]  # of an engine that became smaller, the first are lost
        played_s = _played_s(free_s, hold_s, line)
        return [
            wake_s + chance * turns * slot_s + (1.0 - chance) * play_s
            for turns, play_s in zip(by_rate, played_s, strict=True)
        ]

    def book(self, now: float, room_s: float, spread_s: float, of: str = "") -> float:
        """Seconds after which to come back, ``room_s`` from now or later.

        The virtual scheduling of GCRA (ITU-T I.371): bookings are a backlog that is worked off in real time,
        each refusal comes after it and adds ``spread_s`` to it. There is one for all, and one for each key that fills
        what it may hold (``of``), of which there are few.
        """
        backlog_s = max(self._booked_until.get(of, now) - now, 0.0)
        self._booked_until[of] = now + min(backlog_s + spread_s, HORIZON_S)
        return max(room_s + backlog_s, LEAST_S)

    def retry_after_s(self, now: float, reason: Reason, view: View, of: str = "") -> float:
        """Seconds, more than 0, after which one refused for ``reason`` should come back; ``of`` as in ``book``."""
        if reason is Reason.DRAINING:  # the next process has an empty line and bookings of its own
            return view.drain_s if view.drain_s is not None and view.drain_s > 0 else SLOT_S
        slot_s = self._holds.slot_s(now, view.slots, view.holders) if view.slots else 0.0
        apart = APART + APART_BY_CHANCE * self._holds.chance
        return self.book(now, first_room_s(reason, view, slot_s), view.weight * slot_s * apart, of)


def _behind(ahead: float, work: float, slots: int) -> float:
    """How long those who go before take up what comes free, in slots' times.

    Each that is granted takes a slot that comes free; how long it keeps it matters once it is the next to end.

    Args:
        ahead: slots that they need.
        work: the same, each times its ``length``.
    """
    return ahead + (work - ahead) * ahead / (ahead + slots)


def _by_rate(free: int, slots: int, line: Iterable[tuple[int, float]]) -> list[float]:
    """When each gets its slots if they come free one after another, in slots' times.

    Args:
        free: slots that nobody holds; below 0: so many are held too many, and are lost as they come free.
        line: slots of each, at most as many as there are, and its ``length``.
    """
    turns: list[float] = []
    ahead, work = -free, 0.0
    for weight, length in line:
        ahead += weight
        missing = min(weight, ahead)
        if missing > 0:
            turns.append(_behind(ahead - 1, work + missing - 1, slots) + 1.0)
            work += missing * length
        else:
            turns.append(0.0)
    return turns


def _played_s(free_s: list[float], hold_s: float, line: Iterable[tuple[int, float]]) -> list[float]:
    """When each gets its slots if they come free at these times, in order, and the mean is held for ``hold_s``."""
    starts_s: list[float] = []
    start_s = 0.0
    for weight, length in line:  # each at most as many as there are
        for _ in range(weight):
            start_s = max(start_s, heappop(free_s))
        for _ in range(weight):
            heappush(free_s, start_s + hold_s * length)
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
