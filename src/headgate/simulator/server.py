"""The life of the process: loading, listening, SIGTERM, the end.

As with vLLM the port is taken at the start and refuses connections until the engine is loaded; SIGTERM ends
what runs with ``abort`` at once, or after so many seconds in which it may finish and new requests get 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from headgate.simulator.protocol import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.simulator.app import App
    from headgate.simulator.faults import Fault
    from headgate.simulator.service import Service


class StartFailed(Exception):
    """The engine does not start; the message is for a person."""


def log(message: str) -> None:
    """One line on stderr that looks like vLLM's."""
    print(f"INFO {time.strftime('%m-%d %H:%M:%S')} [simulator] {message}", file=sys.stderr, flush=True)  # noqa: T201


def take_port(host: str, port: int) -> socket.socket:
    """Bind, without listening: connections are refused, and nobody else gets the port. Raises StartFailed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise StartFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sock


def load_model(seconds: float, model: str, faults: list[Fault]) -> None:
    """Take as long as loading takes, and say what vLLM says. Raises StartFailed where a fault wants it."""
    log(f"Starting to load model {model}...")
    for fault in faults:
        if fault.kind == "slow_start":
            seconds += fault.seconds or 0.0
        elif fault.kind == "refuse_to_start":
            raise StartFailed(fault.message)
    steps = max(1, min(20, int(seconds / 0.25)))
    for done in range(steps):
        log(f"Loading weights {100 * done // steps:3d}% ({done}/{steps})")
        time.sleep(seconds / steps)
    log(f"Loading weights took {seconds:.2f} seconds")


class Server(uvicorn.Server):
    """uvicorn, with signals of our own and a line that says where it listens."""

    def __init__(self, app: App, service: Service, sock: socket.socket, shutdown_timeout_s: float) -> None:
        keep_alive_s = int(os.environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5"))
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=5,
            )
        )
        self._service = service
        self._sock = sock
        self._shutdown_timeout_s = shutdown_timeout_s
        self._ending: asyncio.Task[None] | None = None

    def run_until_stopped(self) -> None:
        """Serve, and return after SIGTERM or SIGINT and a clean end."""
        uvloop.run(self._serve([self._sock]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        for wanted in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(wanted, self._asked_to_end)
        self._service.engine.start()
        await super().startup(sockets)
        host, port = self._sock.getsockname()[:2]
        log("Application startup complete.")
        print(f"listening on {host}:{port}", flush=True)  # noqa: T201
        for fault in self._service.faults.take_at_once():
            self._service.hit(fault)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would raise the signal again at the end, and the exit status would not be 0.
        yield

    def _asked_to_end(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        engine = self._service.engine
        engine.draining = True
        if self._shutdown_timeout_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.idle(), self._shutdown_timeout_s)
        engine.abort_all()
        self.should_exit = True
