"""A running ``headgate serve``, looked at only from outside: HTTP, its log, its exit status.

with simulated_engine() as engine, gateway(engine, "--max-active", "2") as gate:
    ...
    gate.until(active=0)
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import IO, TYPE_CHECKING, Any

import httpx

from headgate.settings import BARE, PREFIX
from tests.wire.client import CHAT, Client, Reply, chat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulated import Engine

DEADLINE_S = 20.0
START_S = 60.0
"""For a first start on a busy machine, which compiles what it imports."""
_BETWEEN_LOOKS_S = 0.01  # a gateway can only be asked again; nothing is decided by this time


def wait_until(look: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> Any:
    """What ``look`` gives, as soon as that is true."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        Event().wait(_BETWEEN_LOOKS_S)
    return seen


@dataclass(slots=True)
class Gateway:
    """A gateway that listens."""

    port: int
    process: subprocess.Popen[str]
    stderr: IO[str]
    http: httpx.Client
    said: list[str] = field(default_factory=list)

    def client(self, *, receive_bytes: int | None = None) -> Client:
        return Client(self.port, receive_bytes=receive_bytes)

    def ask(self, body: object = None, path: str = CHAT, **headers: str) -> Reply:
        """One request on a connection of its own, read to its end; a short streamed chat if nothing is said."""
        with self.client() as client:
            return client.ask(path, chat() if body is None else body, **headers)

    def hold(self, count: int, tokens: int = 4000, **fields: Any) -> ExitStack:
        """So many streams with their first event here; closed together."""
        with ExitStack() as stack:
            clients = [stack.enter_context(self.client()).post(CHAT, chat(tokens, **fields)) for _ in range(count)]
            for client in clients:
                client.until_events(1)
            return stack.pop_all()

    # What it says of itself.

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def status(self) -> dict[str, Any]:
        seen: dict[str, Any] = self.get("/status").json()
        return seen

    def until(self, *, active: int | None = None, queued: int | None = None, within_s: float = DEADLINE_S) -> None:
        """Until so many slots are held, and so many requests wait."""

        def look() -> bool:
            status = self.status()
            return active in (None, status["slots"]["active"]) and queued in (None, status["queue"]["depth"])

        wait_until(look, f"active={active}, queued={queued}; {self.status()}", within_s)

    def authorize(self, key: str) -> None:
        """Send this key with what is asked from here on."""
        self.http.headers["x-api-key"] = key

    def until_ready(self) -> None:
        wait_until(lambda: self.get("/ready").status_code == 200, f"it is ready\n{self.log()}")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of ``/metrics`` that have these labels; 0 where there is none."""
        return sample(self.get("/metrics").text, name, labels)

    def counted(self, **labels: str) -> float:
        """Requests of the chat route that ended so; another route by ``route``."""
        return self.metric("api_requests_total", **{"route": CHAT, **labels})

    def until_counted(self, count: float, name: str = "api_requests_total", **labels: str) -> None:
        """Until a counter is where it should be, exactly."""
        wait_until(
            lambda: self.metric(name, **labels) == count,
            f"{name}{labels} = {count}, it is {self.metric(name, **labels)}",
        )

    def log(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()

    def logged(self, request_id: str) -> dict[str, Any]:
        """The log's line about this request, once it is written; asserts that there is one."""

        def look() -> list[dict[str, Any]]:
            whole = self.log().rpartition("\n")[0]
            lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
            return [line for line in lines if line.get("request_id") == request_id]

        (line,) = wait_until(look, f"a line about {request_id}")
        return dict(line)

    # Its end.

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_status(self, within_s: float = DEADLINE_S) -> int:
        return self.process.wait(within_s)


def sample(page: str, name: str, labels: dict[str, str]) -> float:
    """The sum of the samples so called on a page of Prometheus text that have these labels."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.partition(" ")[0].partition("{")[0] == name and all(f'{k}="{v}"' in line for k, v in labels.items())
    )


@contextmanager
def gateway(
    engine: Engine | str | None,
    *flags: str,
    env: dict[str, str] | None = None,
    ready: bool = True,
    log_to: int | None = None,
) -> Iterator[Gateway]:
    """A gateway in front of ``engine`` (or a URL), or with a simulated engine of its own where that is None.

    ``log_to``: a file descriptor that its log goes to, so that nobody looks at it here.
    """
    given = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name in BARE:
        given.pop(name.upper(), None)
    url = engine if isinstance(engine, str) or engine is None else engine.url
    remote = ["--engine-urls", url] if url else []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stderr = stack.enter_context(tempfile.TemporaryFile("w+"))
        process = subprocess.Popen(
            [sys.executable, "-m", "headgate", "serve", "--port", "0", "--log-format", "json", *remote, *flags],
            stdout=subprocess.PIPE,
            stderr=stderr if log_to is None else log_to,
            text=True,
            cwd=folder,
            env={**given, "HEADGATE_CACHE_DIR": str(Path(folder) / "cache"), **(env or {})},
        )
        stack.callback(_end, process, abruptly=bool(url))
        port, said = _listening(process)
        assert port, f"the gateway did not start:\n{stderr.seek(0) or stderr.read()}"
        http = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S, trust_env=False, verify=False)
        )
        running = Gateway(port, process, stderr, http, said)
        if ready:
            running.until_ready()
        yield running
        assert "Traceback" not in running.log(), running.log()
        assert "exception" not in running.log().lower(), running.log()


def _end(process: subprocess.Popen[str], *, abruptly: bool) -> None:
    """A supervised engine must end with it: SIGTERM twice is the quick clean end. Where nothing of its own runs, nobody
    looks at how it ends: a test that means to ends it itself.
    """
    for _ in range(2):
        if process.poll() is None and not abruptly:
            process.terminate()
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                continue
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _listening(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The port that it says it listens on, 0 where it says nothing, and its first line."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        if not ready.select(START_S):
            return 0, []
    line = process.stdout.readline()
    return (int(line.rsplit(":", 1)[1]) if " listens on " in line else 0), [line]
