"""One engine, one client, and a round with one target between them: start, warm up, measure, stop.

The gateway has a core of its own where the machine allows it; engine and client have another. The gateway's
clocks are read when all connections are open and nothing has been sent, and again a moment after the last
byte: what it still writes then, logs and counters, is part of the work.

Which targets, how often, and where the figures go is `run`'s.
"""

import contextlib
import http.client
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.overhead import wire
from loadtest.overhead.client import Job, job_line
from loadtest.overhead.phases import Phase, warm_up
from loadtest.overhead.processes import Process, machine_busy_ns, speed_ms
from loadtest.overhead.targets import TARGETS, Absent, Launch, Site, Target

READY_WITHIN_S = 45.0
SETTLE_S = 0.15
REPO = Path(__file__).resolve().parents[2]


class RoundError(Exception):
    """This target gave no figures this time; the message says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """None where the machine has too few to give any away, or pinning is switched off."""

    gateway: set[int] | None = None
    engine: set[int] | None = None
    client: set[int] | None = None

    @classmethod
    def choose(cls, *, pin: bool) -> "Cores":
        allowed = sorted(os.sched_getaffinity(0))
        if not pin or len(allowed) < 2:
            return cls()
        return cls(gateway={allowed[1]}, engine={allowed[0]}, client={allowed[2 if len(allowed) > 2 else 0]})

    def as_json(self) -> dict[str, object]:
        return {name: sorted(cores) if cores else "any" for name, cores in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Started:
    """A target that serves; ``process`` is None for the one that is no gateway."""

    port: int
    process: Process | None = None
    start_s: float = 0.0
    fewer_by: int = 1


class Bench:
    def __init__(self, folder: Path, cores: Cores, peers_envs: tuple[Path, ...]) -> None:
        self._folder = folder
        self._cores = cores
        self._peers_envs = peers_envs
        self._engine = self._start("upstream", cores.engine)
        self._client: Process | None = None
        said = self._engine.read_line(READY_WITHIN_S)
        if not said:
            self.close()
            raise RoundError(f"the engine did not start: {last_words(folder / 'upstream.log')}")
        self.engine_port = int(json.loads(said)["port"])
        wait_until_serving(self.engine_port, self._engine, folder / "upstream.log")

    def close(self) -> None:
        for process in (self._client, self._engine):
            if process is not None:
                process.stop()

    def launch(self, target: Target) -> tuple[Site, Launch | Absent]:
        port, spare_port = free_ports(2)
        site = Site(self.engine_port, port, spare_port, self._folder, self._peers_envs, wire.MODEL)
        return site, target(site)

    def round(self, name: str, plan: Sequence[Phase]) -> dict[str, object]:
        speed = {"speed_ms": round(speed_ms(self._cores.gateway), 2)}
        with self.started(name, TARGETS[name]) as there:
            seen = self._phases(plan, there)
            peak = there.process.peak_rss_bytes() if there.process else 0
            return {**speed, "start_s": round(there.start_s, 3), **seen, "peak_rss_bytes": peak}

    @contextlib.contextmanager
    def started(self, name: str, target: Target) -> Iterator["Started"]:
        """Up, serving, and stopped at the end.

        Raises:
            RoundError: it isn't there, doesn't start, or ends before it is stopped.
        """
        site, launch = self.launch(target)
        if isinstance(launch, Absent):
            raise RoundError(launch.why)
        if not launch.argv:
            yield Started(self.engine_port)
            return
        log = self._folder / f"{name}.log"
        started_at = time.monotonic()
        gateway = Process(launch.argv, cores=self._cores.gateway, env=launch.env, cwd=self._folder, log=log)
        try:
            wait_until_healthy(f"http://127.0.0.1:{site.port}{launch.health}", gateway, log)
            start_s = time.monotonic() - started_at
            wait_until_serving(site.port, gateway, log)
            yield Started(site.port, gateway, start_s, fewer_by=20 if launch.slow else 1)
            if gateway.exit_status is not None:
                raise RoundError(f"ended with status {gateway.exit_status} under load: {last_words(log)}")
        finally:
            gateway.stop()

    def warm_up(self, there: "Started") -> None:
        for phase in warm_up():
            self._run_job(phase.fewer_streams(there.fewer_by).job(there.port), lambda: None)

    def _phases(self, plan: Sequence[Phase], there: "Started") -> dict[str, object]:
        self.warm_up(there)
        return {
            "fewer_streams_by": there.fewer_by,
            "phases": {phase.name: self.measure(phase, there) for phase in plan},
        }

    def measure(self, phase: Phase, there: "Started") -> dict[str, Any]:
        """One load; what the client saw, and the clocks of everyone in it."""
        gateway, port = there.process, there.port
        phase = phase.fewer_streams(there.fewer_by)
        before: dict[str, int] = {}
        seen = self._run_job(phase.job(port), lambda: before.update(self._clocks(gateway)))
        time.sleep(SETTLE_S)
        spent = {name: ns - before[name] for name, ns in self._clocks(gateway).items()}
        known_ns = spent["gateway"] + spent["engine"] + spent["client"]
        return seen | {
            "cpu_ns": spent["gateway"],
            "engine_cpu_ns": spent["engine"],
            "client_cpu_ns": spent["client"],
            "others_cpu_ns": max(0, spent["machine"] - known_ns),
            "window_ns": spent["clock"],
            "peak_rss_bytes": gateway.peak_rss_bytes() if gateway else 0,
        }

    def _clocks(self, gateway: Process | None) -> dict[str, int]:
        return {
            "gateway": gateway.cpu_ns() if gateway else 0,
            "engine": self._engine.cpu_ns(),
            "client": self._client.cpu_ns() if self._client else 0,
            "machine": machine_busy_ns(),
            "clock": time.monotonic_ns(),
        }

    def _run_job(self, job: Job, on_ready: Callable[[], None]) -> dict[str, object]:
        """A client that doesn't answer is given up, and the next round gets a new one."""
        client = self._client = self._client or self._start("client", self._cores.client)
        try:
            client.write_line(job_line(job))
            if not client.read_line(READY_WITHIN_S):
                raise RoundError(f"the client died: {last_words(self._folder / 'client.log')}")
            on_ready()
            client.write_line(b"go\n")
            said = client.read_line(job.limit_s + READY_WITHIN_S)
            if not said:
                raise RoundError(f"the client died: {last_words(self._folder / 'client.log')}")
        except (RoundError, OSError) as problem:  # TimeoutError and BrokenPipeError are OSErrors
            client.stop()
            self._client = None
            raise RoundError(str(problem)) from problem
        result: dict[str, object] = json.loads(said)
        return result

    def _start(self, module: str, cores: set[int] | None) -> Process:
        argv = (sys.executable, "-m", f"loadtest.overhead.{module}")
        return Process(argv, cores=cores, cwd=REPO, log=self._folder / f"{module}.log", piped=True)


def free_ports(count: int) -> list[int]:
    """Asked of the kernel; were one taken before it is used, it would show as a failed start."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def wait_until_healthy(url: str, process: Process, log: Path) -> None:
    def healthy() -> bool:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)

    _wait_for(healthy, "was healthy", process, log)


def wait_until_serving(port: int, process: Process, log: Path) -> None:
    """`/health` may be there before the engine is known to the gateway: an answer is what counts."""
    template = wire.request_template(stream=False, include_usage=False, events=1, interval_ms=0, delay_ms=0)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=template % 7,
        headers={"content-type": "application/json"},
    )

    def serving() -> bool:
        with urllib.request.urlopen(request, timeout=5) as reply:
            stamp = wire.read_stamp(reply.read())
        return stamp is not None and stamp[1] == wire.stamp_tail(7, 0)

    _wait_for(serving, "served a request", process, log)


def _wait_for(done: Callable[[], bool], what: str, process: Process, log: Path) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    last = "no answer"
    while time.monotonic() < give_up_at:
        if process.exit_status is not None:
            raise RoundError(f"ended with status {process.exit_status} before it {what}: {last_words(log)}")
        try:
            if done():
                return
        except (OSError, http.client.HTTPException, ValueError) as problem:  # URLError is an OSError
            last = str(problem) or type(problem).__name__
        time.sleep(0.02)
    raise RoundError(f"{READY_WITHIN_S:.0f} s passed before it {what}; at last {last}: {last_words(log)}")


def last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-3:])[-400:] or "(it said nothing)"
