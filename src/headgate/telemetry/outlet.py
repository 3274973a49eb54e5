"""Where the log's lines go out: a thread writes them, so that whoever is slow to read them holds nobody up.

A log that nobody reads (a terminal on hold, a collector that hangs, a slow disk behind a pipe) fills its pipe, and then
a write waits for as long as that lasts: on the event loop that was every stream, and ``/health``. So the loop leaves
its lines here. What waits is bounded; what comes beyond is lost, and how much that was is said once there is room.

It writes to the file and not through Python's stream: a thread that waits inside of that would keep the process from
its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import deque

log = logging.getLogger(__name__)

WAITING_MOST = 4 * 1024 * 1024
"""Characters."""
CLOSE_S = 1.0
"""An end waits for the last lines no longer than this."""


class Outlet:
    """A stream of text that never makes its writer wait.

    Args:
        file: a file descriptor; only the thread writes to it.
        most: characters that may wait to be written.
    """

    def __init__(self, file: int, *, most: int = WAITING_MOST) -> None:
        self._file = file
        self._most = most
        self._texts: deque[str] = deque()
        self._waiting = 0
        self._lost = 0
        self._closed = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._run, name="log", daemon=True)
        self._writer.start()

    def write(self, text: str) -> int:
        """Take whole lines."""
        with self._changed:
            if self._waiting + len(text) > self._most:
                self._lost += text.count("\n")
            else:
                self._waiting += len(text)
                self._texts.append(text)
                self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread writes as soon as it can."""

    def close(self, within_s: float = CLOSE_S) -> None:
        """Write what waits. A reader that takes nothing is not waited for any longer than this."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join(within_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts or self._closed)
                if not self._texts:
                    return
                text = "".join(self._texts)
                self._texts.clear()
            with contextlib.suppress(OSError):  # a full disk or a closed pipe loses lines, never a request
                self._pass_on(text.encode(errors="backslashreplace"))
            with self._changed:
                self._waiting -= len(text)
                lost, self._lost = self._lost, 0
            if lost:
                log.warning("%d lines of the log were lost: they are not taken as fast as they come", lost)

    def _pass_on(self, left: bytes) -> None:
        while left:
            try:
                left = left[os.write(self._file, left) :]
            except BlockingIOError:  # whoever it is shared with has made it so
                select.select((), (self._file,), ())
