"""One engine as a process: started, read, asked to leave, killed, and gone.

The one promise: when ``wait`` returns, nothing of the process tree is left. The guard keeps it, and
``remains`` where the guard itself was killed. Separate from the supervisor because it knows nothing of
readiness or restarts. It ends at the exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from headgate.pool.child import Child
from headgate.pool.output import Output
from headgate.pool.remains import MARK, kill_remains

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

GUARD = Path(__file__).parent / "launchers" / "guard.py"
GUARD_KILL_S = 10.0
"""Seconds the guard has for killing what can be killed before it is killed itself."""
OUTPUT_END_S = 1.0


def _inherited() -> dict[str, str]:
    """This process's environment but for the gateway's own settings: its keys are none of the engine's business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}


@dataclass(frozen=True, slots=True)
class Exit:
    """How an engine ended, and how many processes it left that had to be killed.

    Attributes:
        code: what it returned; None if a signal ended it, or if the guard was killed and nobody knows.
        signal: the signal that ended it.
        killed: processes that outlived the main one.
        guarded: whether the guard lived to the end.
    """

    code: int | None
    signal: int | None = None
    killed: int = 0
    guarded: bool = True

    def __str__(self) -> str:
        if self.code is not None:
            how = f"exit status {self.code}"
        elif self.signal is not None:
            how = f"killed by {_signal_name(self.signal)}"
        else:
            how = "its guard was killed"
        return f"{how}, {self.killed} left behind and killed" if self.killed else how


class _Report(msgspec.Struct):
    pid: int | None = None
    kept: bool = False
    unkept: str | None = None
    status: int | None = None
    killed: int = 0


class Commands(Protocol):
    """Where a guard's commands are written to."""

    def write(self, data: bytes, /) -> object: ...
    def close(self) -> object: ...
    def is_closing(self) -> bool: ...


class Guard(Protocol):
    """What is needed of a guard, whether it is a child of ours or another gateway's that was taken over."""

    @property
    def stdin(self) -> Commands: ...
    @property
    def stdout(self) -> asyncio.StreamReader: ...
    @property
    def stderr(self) -> asyncio.StreamReader: ...
    async def wait(self) -> int: ...
    def kill(self) -> None: ...


class EngineProcess:
    """A running engine. Make one with ``start``, or with ``pool.keep`` of one that runs already.

    Attributes:
        pid: of its main process; None before the guard has told it.
        is_kept: whether its guard has said that it keeps it when this process ends.
    """

    def __init__(
        self,
        guard: Guard,
        mark: str,
        on_line: Callable[[str], None],
        secret: str | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        self.is_kept = is_kept
        self._guard = guard
        self._mark = mark
        self._on_line = on_line
        self._output = Output(secret=secret)
        self.pid: int | None = None
        self._reading = asyncio.create_task(self._read_output())
        self._ending = asyncio.create_task(self._end())

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        on_line: Callable[[str], None] = lambda _: None,
        keep: Callable[[str], Mapping[str, str]] = lambda _: {},
        secret: str | None = None,
    ) -> EngineProcess:
        """Start a command; ``env`` is added to what this process has, without the gateway's own settings.

        ``keep`` is given its mark, and gives what makes the guard keep it when this process ends. ``secret`` is blanked
        in what it prints.

        Raises:
            OSError: the guard cannot be started. A command that cannot be is an exit with status 127.
        """
        mark = uuid.uuid4().hex
        guard = await Child.start(
            (sys.executable, "-I", "-S", str(GUARD), "--", *argv), {**_inherited(), **env, **keep(mark), MARK: mark}
        )
        return cls(guard, mark, on_line, secret)

    @property
    def lines(self) -> list[str]:
        """The last lines it printed."""
        return self._output.lines

    @property
    def has_ended(self) -> bool:
        """Whether it, and all that belonged to it, is gone."""
        return self._ending.done()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as it has ended."""
        self._ending.add_done_callback(lambda _: callback())

    async def wait(self) -> Exit:
        """How it ended. After this nothing of it is left."""
        return await asyncio.shield(self._ending)

    async def terminate(self, grace_s: float) -> Exit:
        """Ask it to leave (SIGTERM); kill what has not left in time."""
        self._tell(b"term\n")
        await asyncio.wait({self._ending}, timeout=grace_s)
        return await self.kill()

    async def kill(self) -> Exit:
        """Kill all of it."""
        self._tell(b"kill\n")
        done, _ = await asyncio.wait({self._ending}, timeout=GUARD_KILL_S)
        if not done:
            # Either the guard is stopped, or a process hangs in the kernel. Without the guard we see which.
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
        return await self.wait()

    def hurry(self) -> None:
        """Kill it though somebody waits for it to leave by itself; that one sees its end."""
        self._tell(b"kill\n")

    def let_go(self) -> None:
        """Close the pipe, upon which the guard kills all; for when nobody can wait any more."""
        self._guard.stdin.close()

    def release(self) -> None:
        """Leave it to its guard, which keeps it: from here on nothing is known of it."""
        for task in (self._ending, self._reading):
            task.cancel()
        self.let_go()

    def _tell(self, command: bytes) -> None:
        # Five bytes into an empty pipe need no drain; a guard that is gone already needs no command.
        if not self._guard.stdin.is_closing():
            self._guard.stdin.write(command)

    async def _end(self) -> Exit:
        last = _Report()
        while line := await self._guard.stdout.readline():
            with contextlib.suppress(msgspec.MsgspecError):
                last = msgspec.json.decode(line, type=_Report)
            if last.pid is not None:
                self.pid = last.pid
            self.is_kept = self.is_kept or last.kept
            if last.unkept is not None:
                log.warning("process %s can't be kept, and will end with this gateway: %s", self.pid, last.unkept)
        # The end of the guard's reports means that it is dead.
        killed = 0 if last.status is not None else await kill_remains(self.pid, self._mark)
        # Nobody is left to write, so the end of the output is near; the last words matter most. Where a child could
        # escape the guard (no Linux) it would still hold the output open, and asyncio the exit back with it.
        await asyncio.wait({self._reading}, timeout=OUTPUT_END_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._guard.wait(), OUTPUT_END_S)
        self._reading.cancel()
        self.let_go()
        if last.status is None:
            return Exit(None, killed=killed, guarded=False)
        if os.WIFSIGNALED(last.status):
            return Exit(None, os.WTERMSIG(last.status), last.killed)
        return Exit(os.waitstatus_to_exitcode(last.status), None, last.killed)

    async def _read_output(self) -> None:
        while chunk := await self._guard.stderr.read(65536):
            for line in self._output.feed(chunk):
                self._on_line(line)
        for line in self._output.close():
            self._on_line(line)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
