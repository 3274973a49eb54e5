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

from headgate.pool.launchers import LOOPBACK, Address, Launch, free_port
from headgate.pool.lifecycle import State
from headgate.pool.supervisor import Pace, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEADLINE_S = 20.0
QUICK = Pace(eager_s=0.02, eager_for_s=5.0, starting_s=0.05, busy_s=0.05, idle_s=0.1)

_SCRIPT = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, plan = int(sys.argv[1]), json.loads(sys.argv[2])
if plan.get("ignores_sigterm"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
# Its helpers outlive it: they ignore SIGTERM; one stays in the group, one leaves it, one leaves the session and
# takes nothing of the environment along but its parent, one has a child of its own.
STAY = "import signal; signal.signal(15, 1); signal.pause()"
PARENT = """
import signal
import subprocess

signal.signal(15, 1)
print(subprocess.Popen([sys.executable, "-IS", "-c", sys.argv[1]]).pid, flush=True)
signal.pause()
"""
pids = [os.getpid()]
def helper(code, *args, **how):
    child = subprocess.Popen([sys.executable, "-IS", "-c", code, *args], stdout=subprocess.PIPE, **how)
    pids.append(child.pid)
    return child
for kind in plan.get("helpers", []):
    if kind == "group": helper(STAY)
    if kind == "own group": helper(STAY, process_group=0)
    if kind == "own session": helper(STAY, start_new_session=True)
    if kind == "bare session": helper(STAY, start_new_session=True, env={})
    if kind == "parent": pids.append(int(helper(PARENT, STAY, start_new_session=True).stdout.readline()))
if "pids" in plan:
    with open(plan["pids"], "w") as file: file.write(json.dumps(pids))
for line in plan.get("prints", []): print(line, flush=True)
if "exits" in plan: sys.exit(plan["exits"])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/v1/models":
            self.answer(200, json.dumps({"data": [{"id": name, "max_model_len": 2048} for name in models()]}))
        elif self.path == "/metrics" and "metrics" in plan:
            with open(plan["metrics"]) as file: self.answer(200, file.read())
        elif self.path.startswith("/exit/"):
            os._exit(int(self.path[6:]))
        else:
            self.answer(404, "")
    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *args): pass

def models():
    return plan.get("models", ["toy"])

ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def command(port: int, **plan: Any) -> tuple[str, ...]:
    """The command line of an engine; see the script for what a plan may hold."""
    return (sys.executable, "-I", "-c", _SCRIPT, str(port), json.dumps(plan))


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
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    async def pids(self) -> list[int]:
        """The process ids of the next engine that tells them, its own first."""
        readable, _, _ = await asyncio.to_thread(select.select, [self._descriptor], [], [], DEADLINE_S)
        assert readable, "no engine came up"
        found: list[int] = json.loads(os.read(self._descriptor, 4096))
        return found


def parent_of(pid: int) -> int:
    """The parent process, as the system sees it."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
