"""A simulated engine for tests: a real process on a free port, ended when the test is.

    with simulated_engine("--max-num-seqs", "4") as engine:
        engine.faults({"kind": "cut", "after_events": 3})
        ...
        engine.state(inflight=0)  # returns as soon as nothing is in flight

It loads in no time and runs at its own speed unless flags say otherwise; a flag given twice counts as given
last.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S = 60.0


@dataclass(slots=True)
class Engine:
    """A running simulated engine.

    Args:
        url: base URL with no slash at the end.
        process: the process; its stderr goes to a file that ``log`` reads.
    """

    url: str
    port: int
    process: subprocess.Popen[str]
    stderr: IO[str]

    def faults(self, *faults: dict[str, Any]) -> None:
        """Ask for faults; ``headgate.simulator.faults`` lists them."""
        status, reply = self._ask("POST", "/simulator/faults", body=json.dumps(faults))
        assert status == 200, reply

    def clear_faults(self) -> None:
        """No faults any more; a hang is over."""
        status, reply = self._ask("DELETE", "/simulator/faults")
        assert status == 200, reply

    def state(self, timeout_s: float = 5.0, **until: int) -> dict[str, int]:
        """What the engine is doing, once each named number is as given. AssertionError after ``timeout_s``.

        Names: running, waiting, inflight, finished, aborted, max_running_seen, max_inflight_seen, open,
        max_open_seen, requests_seen, blocks_used, and a few more.
        """
        query = urlencode({"timeout_s": timeout_s, **until})
        status, reply = self._ask("GET", f"/simulator/state?{query}", timeout_s + 5)
        assert status == 200, f"wanted {until}, still {reply}"
        state: dict[str, int] = json.loads(reply)
        return state

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of ``/metrics``, the sum where several have these labels."""
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in self._ask("GET", "/metrics")[1].splitlines()
            if line.partition("{")[0] == name and all(f'{k}="{v}"' in line for k, v in labels.items())
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def _ask(self, method: str, path: str, timeout_s: float = 5.0, body: str | None = None) -> tuple[int, str]:
        """A request on a connection of its own: no pool keeps one that the engine's faults have broken."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)) as connection:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def log(self) -> str:
        """What it wrote to stderr."""
        self.stderr.seek(0)
        return self.stderr.read()


def start_simulated(*flags: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], IO[str]]:
    """Start the process without waiting for it, on a free port; the caller ends it."""
    stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by whoever ends the process
    process = subprocess.Popen(
        [sys.executable, "-m", "headgate.simulator", "--port", "0", "--load-s", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, **(env or {})},
    )
    return process, stderr


@contextmanager
def simulated_engine(*flags: str, env: dict[str, str] | None = None) -> Iterator[Engine]:
    """A simulated engine that listens. AssertionError with its last words where it doesn't start."""
    process, stderr = start_simulated(*flags, env=env)
    try:
        port = _listening(process)
        engine = Engine(f"http://127.0.0.1:{port}", port, process, stderr)
        if port == 0:
            process.kill()
            process.wait()
            raise AssertionError(f"the simulated engine did not start:\n{engine.log()}")
        yield engine
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        stderr.close()


def _listening(process: subprocess.Popen[str]) -> int:
    """The port that the process says it listens on, 0 where it says nothing."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        if not ready.select(_START_S):
            return 0
    line = process.stdout.readline()
    return int(line.rsplit(":", 1)[1]) if line.startswith("listening on ") else 0
