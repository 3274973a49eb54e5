"""When a wait is over: two clocks that take turns, and a heap of deadlines on each.

The queue clock runs while an engine is ready, the wake clock while none is; together they make real time, on which
stands what a caller has set itself. A deadline stands on one of the three and never moves, so a turn of the clocks
costs nothing however long the line is. Apart from the ledger because this is all that knows the clocks. It refuses
nobody: it only names the tickets whose time is over.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from headgate.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.gate.entries import Ticket

# Entries of tickets that left the line are dropped when they come to the top, or all at once when there are
# more of them than of the others: on a clock that stands still none ever comes to the top.
_SLACK = 16

_Entry = tuple[float, int, "Ticket", Reason]


class Deadlines:
    """Deadlines of waiting tickets. Every ``now`` is real time in seconds and never goes back."""

    __slots__ = ("_awake", "_own", "_queue", "_slept_s", "_turned_at", "_wake")

    def __init__(self) -> None:
        self._awake = False
        self._turned_at = 0.0
        self._slept_s = 0.0
        self._queue: list[_Entry] = []
        self._wake: list[_Entry] = []
        self._own: list[_Entry] = []

    def clocks(self, now: float) -> tuple[float, float]:
        """What the queue clock and the wake clock show, in seconds from an origin of their own."""
        slept_s = self._slept_s if self._awake else self._slept_s + (now - self._turned_at)
        return now - slept_s, slept_s

    def turn(self, now: float, *, awake: bool) -> None:
        """From now on the queue clock runs (``awake``), or the wake clock."""
        _, self._slept_s = self.clocks(now)
        self._awake = awake
        self._turned_at = now

    def add(self, ticket: Ticket, queue_at: float, reason: Reason, wake_at: float, own_at: float, *, live: int) -> None:
        """Watch a ticket: until ``queue_at`` on the queue clock, which ends in ``reason``, and ``wake_at``.

        ``own_at`` is the caller's own, in real time; inf: it has none. ``live`` is the number of tickets that wait,
        this one included.
        """
        if own_at < inf:
            _push(self._own, (own_at, ticket.number, ticket, Reason.WAIT_TOO_LONG), live)
        _push(self._queue, (queue_at, ticket.number, ticket, reason), live)
        _push(self._wake, (wake_at, ticket.number, ticket, Reason.ENGINE_UNAVAILABLE), live)

    def tickets(self) -> Iterator[Ticket]:
        """All that are watched, in no order."""
        return (entry[2] for entry in self._queue if entry[2].waiting)

    def due(self, now: float) -> tuple[Ticket, Reason] | None:
        """A waiting ticket whose time is over, the longest first; the caller ends it and asks again."""
        for heap, clock_s in zip((self._own, self._queue, self._wake), (now, *self.clocks(now)), strict=True):
            entry = _top(heap)
            if entry is not None and entry[0] <= clock_s:
                heappop(heap)
                return entry[2], entry[3]
        return None

    def next(self, now: float) -> float | None:
        """The real time of the earliest deadline if the clocks don't turn before; None when nobody waits."""
        queue_s, wake_s = self.clocks(now)
        entry, clock_s = (_top(self._queue), queue_s) if self._awake else (_top(self._wake), wake_s)
        if entry is None:
            return None
        at, own = now + (entry[0] - clock_s), _top(self._own)
        return at if own is None else min(at, own[0])


def _push(heap: list[_Entry], entry: _Entry, live: int) -> None:
    heappush(heap, entry)
    if len(heap) > 2 * live + _SLACK:
        heap[:] = [kept for kept in heap if kept[2].waiting]
        heapify(heap)


def _top(heap: list[_Entry]) -> _Entry | None:
    while heap and not heap[0][2].waiting:
        heappop(heap)
    return heap[0] if heap else None
