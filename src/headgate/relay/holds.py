"""The streams of which nothing has come for long: their heads are sent, so that no proxy gives them up.

Not ``expiry``, whose end is final: these are due again and again, all after the same time, which needs no heap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import takewhile

from headgate.relay.expiry import LATE_S
from headgate.relay.reply import Reply


class Holds:
    """Sends the head of an answer of which nothing has come for ``every_s``, and a comment; again each ``every_s``.

    All on one timer, since one of its own costs each stream 2 µs before it is asked for. All wait for equally long, so
    they are due in the order in which they came.
    """

    __slots__ = ("_clock", "_due", "_every_s", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], every_s: float) -> None:
        self._loop, self._clock, self._every_s = loop, clock, every_s
        self._due: dict[Reply, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, reply: Reply) -> None:
        """The engine is being asked."""
        self._due[reply] = self._clock() + self._every_s
        if self._timer is None:
            self._arm(self._every_s)

    def forget(self, reply: Reply) -> None:
        """It has ended, or was never watched."""
        self._due.pop(reply, None)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        late = list(takewhile(lambda each: each[1] <= now, self._due.items()))
        try:
            for reply, _ in late:
                del self._due[reply]
                if not reply.committed:
                    reply.hold()
                    self._due[reply] = now + self._every_s
        finally:  # one whose client has gone in this very turn must not keep the others from theirs
            if self._due:
                self._arm(max(next(iter(self._due.values())) - now, 0.0))

    def _arm(self, in_s: float) -> None:
        self._timer = self._loop.call_later(in_s + LATE_S, self._ring)
