"""Waits to a fraction of a millisecond, where the event loop's own timers know whole ones only.

A step of a small model takes 2 ms: with the loop's timers its tokens would come after 2 or 3 ms by turns. Linux has a
timer that is a file, which wakes the loop like any socket; elsewhere the loop's own must do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from contextlib import suppress

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_ABSOLUTE = 1


class _Spec(ctypes.Structure):
    """``struct itimerspec``: an interval, of which there is none, and the moment."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Timer:
    """Waits until a moment of ``time.monotonic``. One at a time waits."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._libc: ctypes.CDLL | None = None
        self._due: asyncio.Future[None] | None = None

    async def until(self, moment_s: float) -> None:
        """Return at that moment, or at the loop's next turn where it is past."""
        left_s = moment_s - time.monotonic()
        if left_s <= 0 or not self._opened():
            await asyncio.sleep(max(0.0, left_s))
            return
        assert self._libc is not None
        whole_s = int(moment_s)
        spec = _Spec(0, 0, whole_s, int((moment_s - whole_s) * 1e9))
        self._due = asyncio.get_running_loop().create_future()
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None)
        try:
            await self._due
        finally:
            self._due = None

    def _opened(self) -> bool:
        if self._fd is None:
            self._fd = self._open()
        return self._fd >= 0

    def _open(self) -> int:
        """The timer's file, -1 where there is none."""
        if sys.platform != "linux":
            return -1
        self._libc = ctypes.CDLL(None)
        fd = int(getattr(self._libc, "timerfd_create", lambda *_: -1)(_CLOCK_MONOTONIC, _FLAGS))
        if fd >= 0:
            asyncio.get_running_loop().add_reader(fd, self._fired)
        return fd

    def _fired(self) -> None:
        assert self._fd is not None
        with suppress(BlockingIOError):  # set anew since it fired
            os.read(self._fd, 8)
        if self._due is not None and not self._due.done():
            self._due.set_result(None)
