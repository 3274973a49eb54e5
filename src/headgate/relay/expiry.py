"""The time limits of all requests under way, on one timer: a timer of its own costs each request 2 µs.

Apart from the flow because it only keeps time. Of a request that has ended only a number stays in the heap, until it
comes to the top or there are more such numbers than others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

_SLACK = 64
LATE_S = 0.001
"""uvloop rounds a timer to the millisecond: it could come before the deadline, find nothing due and spin."""


class Expiry(Generic[T]):
    """Calls ``expire`` for each that is watched and not forgotten by its time.

    Args:
        clock: seconds, monotonic; what ``watch`` is given is on it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], expire: Callable[[T], object]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._expire = expire
        self._live: dict[int, T] = {}
        self._heap: list[tuple[float, int]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, each: T, at: float) -> int:
        """``each`` is over at ``at``; the number by which it is forgotten."""
        number = self._number = self._number + 1
        self._live[number] = each
        heap = self._heap
        heappush(heap, (at, number))
        if heap[0][1] == number:
            self._arm()
        return number

    def forget(self, number: int) -> None:
        """It has ended by itself, or is over already: nothing of it is kept."""
        live = self._live
        live.pop(number, None)
        if len(self._heap) > 2 * len(live) + _SLACK:
            self._heap = [entry for entry in self._heap if entry[1] in live]
            heapify(self._heap)

    def __len__(self) -> int:
        return len(self._live)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self._heap[0][0] - self._clock() + LATE_S
        self._timer = self._loop.call_later(max(wait_s, 0.0), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        due: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            _, number = heappop(self._heap)
            if number in self._live:
                due.append(self._live.pop(number))
        if self._heap:
            self._arm()
        for each in due:
            self._expire(each)
