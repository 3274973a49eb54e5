"""A `headgate serve` with a real vLLM behind it, and the processes that belong to it.

Everything here is looked at from outside: HTTP, /proc, exit codes. What belongs to a gateway is known by a mark in its
environment, and by the sessions that marked processes have been seen in, since vLLM's engine overwrites its own
environment with its title.

On two cores vLLM's spinning processes would keep its API server, the gateway and these tests' clients from running for
up to half a minute, and the tests would judge the kernel's scheduler: where that is allowed, those three run as soon as
there is something for them. A thread started later has no part in that, so clients are tasks of the main thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from loadtest.overload import cores
from tests.vllm.processes import Process, environment, processes, shared_memory, wait_until

MODEL = "tiny"
CONTEXT = 8192
ENGINE_ARGS = f"--dtype float32 --max-model-len {CONTEXT} --max-num-seqs 16 --enforce-eager"
ENGINE_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; without it the CPU build asks for nearly all memory
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
READY_WITHIN_S = 240.0
"""A start takes 35 to 70 s on two cores that have nothing else to do."""
GONE_WITHIN_S = 15.0
MARK = "TEST_OF_THE_MAIN_ROAD"
BARE = ("MAX_ACTIVE", "QUEUE_MODE", "QUEUE_MAX", "QUEUE_TIMEOUT_S", "REQUEST_TIMEOUT_S", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Gateway:
    """A running ``headgate serve``.

    Args:
        vllm: the vllm command.
        model: the folder of the model.
        folder: where its log and its caches go.
        settings: by name, ``max_active=4`` for HEADGATE_MAX_ACTIVE.
    """

    def __init__(self, vllm: str, model: Path, folder: Path, settings: dict[str, object]) -> None:
        self._mark = uuid.uuid4().hex
        self._sessions: set[int] = set()
        self.log_file = folder / f"gateway-{self._mark[:8]}.log"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_") and name not in BARE
        }
        chosen: dict[str, object] = {
            "engine_command": vllm,
            "engine_args": ENGINE_ARGS,
            "served_model_name": MODEL,
            "port": 0,
            "cache_dir": folder / "cache",
            "log_format": "json",
            **settings,
        }
        given = {f"HEADGATE_{name.upper()}": str(value) for name, value in chosen.items()}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headgate", "serve", str(model)],
                cwd=folder,
                env={**inherited, **given, **ENGINE_ENVIRONMENT, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def _wait_for_url(self) -> str:
        said = "listens on "

        def look() -> str | None:
            assert self.process.poll() is None, f"it did not start:\n{self.last_words()}"
            lines = self.log_file.read_text(errors="replace").splitlines()
            return next((line.partition(said)[2].strip() for line in lines if said in line), None)

        return wait_until(look, "the gateway says where it listens")

    def last_words(self, lines: int = 40) -> str:
        """The end of what it and its engine wrote."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    # What it says of itself.

    def is_ready(self) -> bool:
        return self.http.get("/ready").status_code == 200

    def wait_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Until it is ready and there is an engine. Fails at once if the gateway ends."""

        def look() -> bool:
            assert self.process.poll() is None, f"it ended:\n{self.last_words()}"
            return self.is_ready() and len(self._engine_cores()) == 1

        wait_until(look, "/ready is 200", within_s)
        self.to_the_front()

    def to_the_front(self) -> bool:
        """Give gateway, API server and this process real-time priority on two cores; False where that is not allowed.

        Not the engines that are started after this one, nor a core: they would inherit it, and vLLM not start on it.
        """
        if not cores.two():
            return True
        with suppress(ProcessLookupError, FileNotFoundError):  # a thread that has just ended
            server = self.api_server().pid
            wanted = ((self.process.pid, cores.GATEWAY), (server, cores.SERVER), (os.getpid(), cores.CLIENT))
            return all(cores.first_in_line(process, priority) for process, priority in wanted)
        return True

    def status(self) -> dict[str, Any]:
        seen: dict[str, Any] = self.http.get("/status").json()
        return seen

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of the gateway's own /metrics that have these labels; 0 where there is none."""
        return _sum(self.http.get("/metrics").text, name, labels)

    def engine_metric(self, name: str, **labels: str) -> float:
        """The same of vLLM's own metrics, asked through the gateway."""
        answer = self.http.get("/engines/e0/metrics")
        answer.raise_for_status()
        return _sum(answer.text, name, labels)

    def running(self) -> float:
        """How many generations vLLM itself says that it runs or has waiting."""
        page = self.http.get("/engines/e0/metrics")
        assert page.status_code == 200, page.text
        return _sum(page.text, "vllm:num_requests_running", {}) + _sum(page.text, "vllm:num_requests_waiting", {})

    # The processes under it.

    def below(self) -> list[Process]:
        """All processes that come from it, itself left out."""
        mark = f"{MARK}={self._mark}".encode()
        everyone = processes()
        marked = {process.pid for process in everyone if mark in environment(process.pid)}
        self._sessions |= {process.session for process in everyone if process.pid in marked}
        return [
            process
            for process in everyone
            if (process.pid in marked or process.session in self._sessions) and process.pid != self.process.pid
        ]

    def engine_core(self) -> Process:
        """vLLM's engine process."""
        (found,) = self._engine_cores()
        return found

    def _engine_cores(self) -> list[Process]:
        return [process for process in self.below() if process.name.startswith("VLLM::EngineCor")]

    def api_server(self) -> Process:
        """The process of ``vllm serve`` itself, which has the engine's port."""
        parent = self.engine_core().parent
        return next(process for process in self.below() if process.pid == parent)

    def engine_family(self) -> set[int]:
        """The ids of ``vllm serve`` and all that it has started."""
        family = {self.api_server().pid}
        everyone = self.below()
        while more := {p.pid for p in everyone if p.parent in family} - family:
            family |= more
        return family

    def shared_memory(self) -> set[Path]:
        """The files in /dev/shm that its processes share. They are memory, and outlive whoever is killed."""
        return {path for process in self.below() for path in shared_memory(process.pid)}

    # Its end.

    def wait_nothing_left(self, within_s: float = GONE_WITHIN_S) -> None:
        """Until no process that came from it is alive."""
        wait_until(lambda: not self.below(), f"no process is left; there are {self.below()}", within_s)

    def terminate(self, within_s: float = 60.0) -> int:
        """SIGTERM, and its exit status."""
        self.below()  # to know the sessions while their leaders live
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(within_s)

    def close(self) -> None:
        """Ends it whatever its state, leaves nothing behind, and complains if it would have."""
        try:
            if self.process.poll() is None:
                self.terminate()
            self.wait_nothing_left()
        finally:
            self.http.close()
            for process in self.below():
                os.kill(process.pid, signal.SIGKILL)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def _sum(page: str, name: str, labels: dict[str, str]) -> float:
    total = 0.0
    for line in page.splitlines():
        if line.partition(" ")[0].partition("{")[0] == name and all(
            f'{key}="{value}"' in line for key, value in labels.items()
        ):
            total += float(line.rpartition(" ")[2])
    return total
