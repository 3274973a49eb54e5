"""The slots: which engine has how many, who holds them, where a grant may go.

Apart from the ledger because this half of the books knows nothing of lines and deadlines, and can be read
alone. It keeps one rule: what is taken fits. When something is taken, and by whom, the ledger decides.

**Pace.** Requests that were granted together end together where they are of one length, so the slots of a burst come
free in waves for ever after: each wave is a bunch of prompts at once for the engine, and an emptied line, in which
nobody has to share. A slot that comes free sooner after the one before than ``pace_s`` is held back until then, as
TCP's pacing spreads a window over a round trip (Aggarwal, Savage, Anderson, 2000). Of an engine's slots an eighth at
most are held back: in each turn so much of the wave is spread, and no more than that stands empty for it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.gate.entries import Ticket


HELD_BACK_MOST = 1 / 8
"""Of an engine's slots; so an engine of fewer than eight holds nothing back."""


@dataclass(slots=True)
class Bin:
    """An engine as the gate sees it: so many slots, so many of them held.

    ``active`` may exceed ``slots`` after the engine was made smaller, until what runs has ended.
    ``ended``, ``ended_s`` and ``ended_s2``: how many were here and have ended, how long they took, and that squared;
    ``firsts``, ``firsts_s`` and ``firsts_s2``: how many have begun to be answered, how long that took from the grant,
    and that squared; ``in_time``: how many of them began while their answer could still be good.
    ``pace_s``: seconds between two slots that come free, at least; 0: they do as they come.
    ``held_back``: when each of those that came too soon may be granted, the next first.
    """

    engine: str
    slots: int
    active: int = 0
    ended: int = 0
    ended_s: float = 0.0
    ended_s2: float = 0.0
    firsts: int = 0
    firsts_s: float = 0.0
    firsts_s2: float = 0.0
    in_time: int = 0
    pace_s: float = 0.0
    held_back: deque[float] = field(default_factory=deque)
    next_at: float = 0.0

    @property
    def free(self) -> int:
        """Slots that a grant may use; negative while more runs than the engine has slots for."""
        return self.slots - self.active - len(self.held_back)

    def hold_back(self, now: float, came_free: int) -> None:
        """So many slots came free: those that did so too soon can be granted later."""
        most = int(HELD_BACK_MOST * self.slots)
        for _ in range(min(came_free, self.free)):
            if self.next_at <= now:
                self.next_at = now + self.pace_s
            elif len(self.held_back) < most:
                self.held_back.append(self.next_at)
                self.next_at += self.pace_s

    def let_go(self, now: float) -> None:
        """What was held back until ``now`` can be granted."""
        while self.held_back and self.held_back[0] <= now:
            self.held_back.popleft()


class Ended(NamedTuple):
    """Those that held slots of an engine and have ended: how many, the sum of their times, and that of the squares.

    And of all that held some, how many were answered at all, the times from the grant to that, their squares, and how
    many of these came in time to be good.
    """

    number: int
    held_s: float
    held_s2: float
    firsts: int
    firsts_s: float
    firsts_s2: float
    in_time: int


NONE_ENDED = Ended(0, 0.0, 0.0, 0, 0.0, 0.0, 0)


def emptiest(bins: Sequence[Bin], weight: int) -> Bin:
    """The bin with the most free room relative to its slots; the first of equals.

    Args:
        bins: those in which the request fits, one at least.
        weight: the slots that it needs.
    """
    return max(bins, key=lambda each: each.free / each.slots)


class Slots:
    """All engines' slots.

    Args:
        choose: picks one of several bins that have room for a weight.

    Attributes:
        ready: the engines that have slots; one that has none is kept until what runs there has ended.
        holders: the tickets that hold slots, oldest first.
        last_total: slots of the engines that are ready, or that were when the last one was.
        largest: slots of the largest of them; no request takes more.
    """

    __slots__ = ("_bins", "_choose", "holders", "largest", "last_total", "ready")

    def __init__(self, choose: Callable[[Sequence[Bin], int], Bin]) -> None:
        self._choose = choose
        self._bins: dict[str, Bin] = {}
        self.ready: list[Bin] = []
        self.holders: dict[Ticket, None] = {}
        self.last_total = 0
        self.largest = 0

    @property
    def total(self) -> int:
        """Slots of the ready engines."""
        return sum(each.slots for each in self.ready)

    @property
    def active(self) -> int:
        """Slots that are held, on engines that are no longer ready too."""
        return sum(each.active for each in self._bins.values())

    def held(self, engine: str) -> int:
        """Slots that are held on one engine."""
        a_bin = self._bins.get(engine)
        return a_bin.active if a_bin is not None else 0

    def is_within(self, engine: str) -> bool:
        """Whether an engine is ready and no more of its slots are held than it has."""
        a_bin = self._bins.get(engine)
        return a_bin is not None and 0 < a_bin.active <= a_bin.slots

    def held_back(self, engine: str) -> int:
        """Slots of one engine that came free and can't be granted yet."""
        a_bin = self._bins.get(engine)
        return len(a_bin.held_back) if a_bin is not None else 0

    def ended(self, engine: str) -> Ended:
        """Of those that were on one engine, for as long as it has had slots or held some."""
        a_bin = self._bins.get(engine)
        if a_bin is None:
            return NONE_ENDED
        return Ended(
            a_bin.ended,
            a_bin.ended_s,
            a_bin.ended_s2,
            a_bin.firsts,
            a_bin.firsts_s,
            a_bin.firsts_s2,
            a_bin.in_time,
        )

    @property
    def bins(self) -> Sequence[Bin]:
        """Every engine that has slots, or on which some are held."""
        return tuple(self._bins.values())

    def resize(self, engine: str, slots: int) -> None:
        """An engine has so many slots from now on; 0: it is not ready. What runs there is left alone."""
        resized = self._bins.setdefault(engine, Bin(engine, 0))
        resized.slots = slots
        if not slots:
            self._let_all_go(resized)
        self._drop_if_done(resized)
        self.ready = [each for each in self._bins.values() if each.slots]
        if self.ready:
            self.last_total = self.total
            self.largest = max(each.slots for each in self.ready)

    def pace(self, engine: str, pace_s: float) -> None:
        """Slots of an engine come free no sooner after one another than this; 0: as they come."""
        paced = self._bins.get(engine)
        if paced is not None and paced.slots:
            paced.pace_s = pace_s
            if not pace_s:
                self._let_all_go(paced)

    def let_go(self, now: float) -> None:
        """What was held back until ``now`` can be granted."""
        for each in self.ready:
            if each.held_back:
                each.let_go(now)

    @property
    def next_at(self) -> float:
        """When the next of those held back can be granted; inf: none is."""
        return min((each.held_back[0] for each in self.ready if each.held_back), default=inf)

    def has_room(self, weight: int) -> bool:
        """Whether a request fits somewhere. Nothing is chosen: whoever chooses may keep count of turns."""
        if weight > self.largest:
            weight = self.largest
        for each in self.ready:  # noqa: SIM110  no generator: this is asked at every request
            if each.slots - each.active - len(each.held_back) >= weight:
                return True
        return False

    def room(self, weight: int) -> Bin | None:
        """Where a request fits, cut to the largest engine's size; None: nowhere now."""
        if weight > self.largest:
            weight = self.largest
        fits = [each for each in self.ready if each.slots - each.active - len(each.held_back) >= weight]
        if len(fits) > 1:
            return self._choose(fits, weight)
        return fits[0] if fits else None

    def take(self, now: float, ticket: Ticket, where: Bin) -> None:
        """Reserve room that ``room`` has found. The ticket's weight becomes what it holds."""
        if ticket.weight > self.largest:
            ticket.weight = self.largest
        ticket.held_in = where
        ticket.granted_at = now
        where.active += ticket.weight
        self.holders[ticket] = None

    def give_back(self, now: float, ticket: Ticket, where: Bin) -> float:
        """The ticket ends; ``where`` is what it was held in. For how long that was, in seconds."""
        held_s = now - ticket.granted_at
        ticket.held_in = None
        where.active -= ticket.weight
        if where.pace_s:
            where.let_go(now)
            where.hold_back(now, ticket.weight)
        where.ended += 1
        where.ended_s += held_s
        where.ended_s2 += held_s * held_s
        del self.holders[ticket]
        self._drop_if_done(where)
        return held_s

    def _let_all_go(self, a_bin: Bin) -> None:
        a_bin.pace_s = a_bin.next_at = 0.0
        a_bin.held_back.clear()

    def _drop_if_done(self, a_bin: Bin) -> None:
        if not a_bin.slots and not a_bin.active:
            del self._bins[a_bin.engine]
