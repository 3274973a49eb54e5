"""Fewer, larger turns of the loop where its core is wanted by others, too.

Hundreds of streams bring thousands of events a second, and each wakes the gateway by itself. On a core of its own that
costs next to nothing. On one that it shares with an engine's front, or with clients, each time takes the core from
whoever had it, finds its caches cold and leaves them so: there the loop sleeps for some milliseconds between two rounds
of looks at its sockets, and takes whatever has come. Network cards do the same for the same reason: interrupt
coalescing, or moderation.

Whether the core is shared is what Linux says of a thread: for how long it was ready to run and did not
(``/proc/thread-self/schedstat``). Where there is no such file nothing is put off. Nor is it for requests alone, however
many there are: whoever sends the next when the last was answered would be the slower for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import Metric

from headgate.telemetry.metrics import gauge

WAITED = 0.05
"""Of its time, how much the loop's thread must wait for the core for it to be a shared one, ..."""
RAN = 0.05
"""... how much it must run for that to be worth a pause, ..."""
EVENTS = 5.0
"""... and how many events a pause must bring together. Half of each is enough to go on."""
TURNS = 4
"""How many turns the loop has between two pauses: what is found in one of them may need another to be done."""


class Spent(NamedTuple):
    """What a thread has had of the processor since it began, in seconds: for how long it ran, and had to wait."""

    ran_s: float
    waited_s: float


def spent_here() -> Spent | None:
    """What the calling thread has had; None where nothing tells."""
    try:
        ran_ns, waited_ns, _ = Path("/proc/thread-self/schedstat").read_bytes().split()
    except (OSError, ValueError):
        return None
    return Spent(int(ran_ns) * 1e-9, int(waited_ns) * 1e-9)


class _Look(NamedTuple):
    at_s: float
    spent: Spent
    events: int


class Coalescing:
    """Puts off the turns of one loop while that is worth it. `look` is to be called once a second, in the loop.

    Args:
        least_s: between the beginnings of two rounds of looks at the sockets, in seconds; 0: nothing is ever put off.
        spent: what the loop's thread has had, asked in it; None where nothing tells.
        events: how many events have passed, ever.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        least_s: float,
        *,
        events: Callable[[], int],
        spent: Callable[[], Spent | None] = spent_here,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._loop = loop
        self._least_s = least_s
        self._events, self._spent, self._clock, self._sleep = events, spent, clock, sleep
        self._seen: _Look | None = None
        self._began_s = 0.0
        self._turns = 0
        self._next: asyncio.Handle | None = None

    @property
    def is_on(self) -> bool:
        """Whether turns are being put off."""
        return self._next is not None

    def states(self) -> Iterator[Metric]:
        """Whether turns are being put off, for a scrape."""
        yield gauge(
            "api_coalescing",
            "1 while events are taken together every COALESCE_MS, since others want the gateway's core.",
            float(self.is_on),
        )

    def look(self) -> None:
        """Begin or stop to put turns off, by what there was since it was last looked."""
        spent = self._spent() if self._least_s else None
        if spent is None:
            return
        before, now = self._seen, _Look(self._clock(), spent, self._events())
        self._seen = now
        if before is None or not self._is_worth_it(before, now):
            self.stop()
        elif self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        """Put nothing off, until the next look."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _is_worth_it(self, before: _Look, now: _Look) -> bool:
        seconds = (now.at_s - before.at_s) * (0.5 if self.is_on else 1.0)
        return (
            now.spent.waited_s - before.spent.waited_s >= WAITED * seconds
            and now.spent.ran_s - before.spent.ran_s >= RAN * seconds
            and (now.events - before.events) * self._least_s >= EVENTS * seconds
        )

    def _turn(self) -> None:
        self._next = self._loop.call_soon(self._turn)
        self._turns -= 1
        if self._turns > 0:
            return
        self._turns = TURNS
        left_s = self._began_s + self._least_s - self._clock()
        if left_s > 0:
            self._sleep(left_s)
        self._began_s = self._clock()
