"""The client watches itself: how late its loop is, and how much of a core it uses.

An event is timed when this process gets to read it. Where the loop is held up, by its own work or by a machine that is
busy, every figure is too large by as much; so that is measured too, and kept beside the figures.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import cpu_count, getloadavg
from pathlib import Path
from time import process_time

from headgate.workbench.bench.raw import Machine

_TICK_S = 0.02
_SECOND = 1.0


class Watch:
    """Ticks beside the load."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self._cpu_before = process_time()
        self._task: asyncio.Task[None] | None = None

    @property
    def cpu_s(self) -> float:
        """This process's CPU since the start."""
        return process_time() - self._cpu_before

    def start(self) -> None:
        """Begin."""
        self._cpu_before = process_time()
        self._task = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        worst = 0.0
        second = due = clock()
        while True:
            due += _TICK_S
            await asyncio.sleep(due - clock())
            now = clock()
            worst = max(worst, now - due)
            if now - second >= _SECOND:
                self.lags_ms.append(round(worst * 1000, 2))
                worst, second = 0.0, now
            due = max(due, now)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Few garbage collections, threads that give way at once, and as many open files as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    sys.setswitchinterval(0.0005)  # the view is drawn by a thread: the loop gets its turn back within this time
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def machine(loop: str) -> Machine:
    """This machine."""
    return Machine(
        cpu=_line("/proc/cpuinfo", "model name") or platform.machine(),
        cores=cpu_count() or 0,
        memory_bytes=int((_line("/proc/meminfo", "MemTotal") or "0").split()[0]) * 1024,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        loop=loop,
        load_average=[round(load, 2) for load in getloadavg()],
    )


def _line(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
