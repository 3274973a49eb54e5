"""Small engines that do one thing exactly, and ways of waiting for what processes do.

An engine here is a script of the standard library: real processes, but with a tree, a death and a ``/metrics`` that
the test chooses. It lists a model as soon as it listens.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.pool.health import Pace
from headgate.pool.launchers import LOOPBACK, Address, Launch, free_port
from headgate.pool.lifecycle import State
from headgate.pool.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEADLINE_S = 20.0
QUICK = Pace(eager_s=0.02, eager_for_s=5.0, starting_s=0.05, busy_s=0.05, idle_s=0.1, answer_s=0.3)

_SCRIPT = str(Path(__file__).with_name("scripted_engine.py"))


def command(port: int, **plan: Any) -> tuple[str, ...]:
    """The command line of an engine; see ``scripted_engine`` for what a plan may hold."""
    return (sys.executable, "-I", "-S", _SCRIPT, str(port), json.dumps(plan))


@dataclass(frozen=True)
class Scripted:
    """A launcher of such engines."""

    plan: dict[str, Any]
    stop_grace_s: float = 5.0
    max_num_seqs: int | None = 4

    def __call__(self) -> Launch:
        port = free_port()
        return Launch(
            kind="scripted",
            address=Address(LOOPBACK, port),
            argv=command(port, **self.plan),
            model_names=("toy",),
            max_num_seqs=self.max_num_seqs,
            stop_grace_s=self.stop_grace_s,
            history_key="scripted",
        )


class Watched:
    """A supervisor and all the states it went through, with a wait for what it tells."""

    def __init__(self, launch_factory: Callable[[], Launch], **given: Any) -> None:
        self.states: list[State] = []
        self._changed = asyncio.Event()
        self.supervisor = Supervisor("e0", launch_factory, on_change=self._note, **{"pace": QUICK, **given})

    def _note(self, supervisor: Supervisor) -> None:
        if self.states[-1:] != [supervisor.state]:
            self.states.append(supervisor.state)
        self._changed.set()

    async def until(self, reached: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait for a change after which this holds."""
        async with asyncio.timeout(deadline_s):
            while not reached():
                self._changed.clear()
                await self._changed.wait()

    async def until_state(self, state: State, *, starts: int = 1) -> None:
        """Wait for a state, after at least so many starts."""
        await self.until(lambda: self.supervisor.state is state and self.supervisor.starts.total() >= starts)


def gone(pids: Iterable[int], deadline_s: float = DEADLINE_S) -> bool:
    """Whether all of these processes have ended, once the deadline is over at the latest."""
    until_s = time.monotonic() + deadline_s
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], max(0.0, until_s - time.monotonic()))[0]:
                return False
        finally:
            os.close(descriptor)
    return True


def alive(pids: Iterable[int]) -> list[int]:
    """Those of them that have not ended."""
    return [pid for pid in pids if not gone([pid], 0)]


class Family:
    """Hears from an engine, over a named pipe, which processes it is made of."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "family")
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)  # a writer of our own: no end of file

    async def pids(self) -> list[int]:
        """The process ids of the next engine that tells them, its own first."""
        readable, _, _ = await asyncio.to_thread(select.select, [self._descriptor], [], [], DEADLINE_S)
        assert readable, "no engine came up"
        found: list[int] = json.loads(os.read(self._descriptor, 4096))
        return found


def children() -> list[int]:
    """Our own children, zombies too."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def parent_of(pid: int) -> int:
    """The parent process, as the system sees it."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
