"""`headgate serve` with two things that a run needs to reach into its process: the time of day, and the count of tasks.

The time of day that Python code sees is the machine's and an offset, which the run writes on a page of memory that both
share (`Board`); jumping the machine's own clock would need root and hit everybody. SIGUSR1 has the number of asyncio's
tasks written there. Nothing else is changed.
"""

import asyncio
import contextlib
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from types import FrameType

BOARD = "CHAOS_BOARD"
_OFFSET = struct.Struct("<d")
_TASKS = struct.Struct("<q")


class Board:
    """A page that the run and the gateway share."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @property
    def offset_s(self) -> float:
        return float(_OFFSET.unpack_from(self._page, 0)[0])

    @offset_s.setter
    def offset_s(self, seconds: float) -> None:
        _OFFSET.pack_into(self._page, 0, seconds)

    @property
    def tasks(self) -> int:
        return int(_TASKS.unpack_from(self._page, 8)[0])

    @tasks.setter
    def tasks(self, count: int) -> None:
        _TASKS.pack_into(self._page, 8, count)


def main() -> None:
    board = Board(Path(os.environ[BOARD]))
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + board.offset_s
    time.time_ns = lambda: real_ns() + int(board.offset_s * 1e9)

    def count(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # between two loops; the run asks again
            board.tasks = len(asyncio.all_tasks())

    signal.signal(signal.SIGUSR1, count)
    from headgate.cli import main as headgate

    sys.argv[0] = "headgate"
    headgate()


if __name__ == "__main__":
    main()
