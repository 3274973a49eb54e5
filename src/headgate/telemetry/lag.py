"""How late the event loop is: a tick each second, and by how much the worst of the last ones was overdue.

One number tells whether something holds the loop up, whatever it is (a long parse, a scrape, a machine with no CPU
left): every stream and every waiter is as late as this tick.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

EVERY_S = 1.0
KEPT = 15


class LoopLag:
    """Ticks for as long as its loop runs.

    Args:
        clock: seconds, monotonic; not the loop's own, which stands still while a callback runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._late_s: deque[float] = deque(maxlen=KEPT)
        self._wait()

    def _wait(self) -> None:
        self._due = self._clock() + EVERY_S
        self._loop.call_later(EVERY_S, self._tick)

    def _tick(self) -> None:
        self._late_s.append(self._overdue_s())
        self._wait()

    def _overdue_s(self) -> float:
        return max(self._clock() - self._due, 0.0)  # uvloop rounds a timer to the millisecond: it may come before

    def worst_s(self) -> float:
        """The worst lateness of the last 15 ticks, in seconds, and of one that is overdue now."""
        return max(*self._late_s, self._overdue_s(), 0.0)
