"""The gateway and its engine as processes, and what can be read from outside: pages, log, memory, files, tasks.

All that is started carries a mark of the run and of the gateway's life in its environment, so that what is left behind
is found by it, whatever became of its parents. Linux only.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.chaos.asks import MODEL
from loadtest.chaos.books import Books
from loadtest.chaos.gateway import BOARD, Board
from loadtest.overhead.bench import REPO, free_ports
from loadtest.overhead.processes import tree

MAX_ACTIVE = 32
MARK = "CHAOS_LIFE"
WAIT_S = 90.0
ADMIN_KEY = "chaos-admin-key"
FLAGS = (
    *("--max-active", str(MAX_ACTIVE), "--queue-max", "192", "--queue-max-bytes", "16MiB", "--log-format", "json"),
    *("--status-hold-s", "1", "--send-stall-s", "10", "--wedged-after-s", "3", "--drain-timeout-s", "20"),
    *("--wake-timeout-s", "60", "--queue-timeout-s", "30", "--request-timeout-s", "40"),
)
ENGINE_ARGS = (
    "--speed 20 --load-s 0.1 --max-num-seqs 256 --max-model-len 500000 --num-gpu-blocks 131072 --no-prefix-caching"
)


class StageError(Exception):
    """The gateway or its engine did not come to where the run needs it."""


class Stage:
    """One gateway at a time, always on the same port."""

    def __init__(self, folder: Path, books: Books) -> None:
        self.port = free_ports(1)[0]
        self.board = Board(folder / "board")
        self.exits: list[int] = []
        self.life = ""
        self._folder = folder
        self._books = books
        self._log = folder / "gateway.log"
        self._read = 0
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # The gateway.

    async def start(self) -> None:
        """A new life, up to its being ready."""
        self.life = uuid.uuid4().hex
        env = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
        env |= {
            BOARD: str(self._folder / "board"),
            MARK: self.life,
            "HEADGATE_ADMIN_KEY": ADMIN_KEY,
            "HEADGATE_CACHE_DIR": str(self._folder / "cache"),
            "HEADGATE_ENGINE_COMMAND": f"{sys.executable} -m loadtest.chaos.engine",
            "PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{REPO}",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  nothing else is going on yet
                [
                    *(sys.executable, "-m", "loadtest.chaos.gateway", "serve", MODEL, "--port", str(self.port)),
                    *("--engine", "vllm", f"--engine-args={ENGINE_ARGS}", *FLAGS),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=env,
                cwd=self._folder,
                start_new_session=True,
            )
        await self.until_ready()

    async def until_ready(self) -> None:
        """Until the gateway says so; an engine that was given up on is restarted, as an operator would."""

        async def ready() -> bool:
            status, body = await get(self.port, "/ready")
            if status == 503 and json.loads(body).get("reason") == "failed":
                await self.restart_engine()
            return status == 200

        await wait(ready, "the gateway is ready")

    async def end(self, *signals: signal.Signals, between_s: float = 0.2) -> int:
        """Send these and wait for its end; then nothing of its life may be left. Its exit status."""
        process = self._process
        assert process is not None
        for number in signals:
            if process.poll() is None:
                process.send_signal(number)
                if number is not signals[-1]:
                    await asyncio.sleep(between_s)

        async def ended() -> bool:
            return process.poll() is not None

        await wait(ended, "the gateway has ended")
        self.exits.append(process.wait())
        left: list[int] = []

        async def gone() -> bool:
            left[:] = marked(self.life)
            return not left

        try:
            await wait(gone, "all that it started has ended", 15.0)
        except StageError:
            self._books.violate("nothing left of processes", f"after the gateway's end: {[named(p) for p in left]}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.read_log()
        self._books.new_life()
        return self.exits[-1]

    def kill_all(self) -> None:
        """The end of a run that was broken off."""
        for pid in marked(self.life) if self.life else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StageError(f"the gateway has ended by itself: {self._process.returncode}")
        self._process.send_signal(number)

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # Its engine.

    async def status(self) -> dict[str, Any]:
        status, body = await get(self.port, "/status")
        if status != 200:
            raise StageError(f"/status: {status}")
        told: dict[str, Any] = json.loads(body)
        return told

    async def engine(self) -> tuple[int, int]:
        """Its process and its port, once it is there."""
        found: list[tuple[int, int]] = []

        async def there() -> bool:
            engine = (await self.status())["engines"][0]
            if engine["state"] != "ready" or not engine["pid"]:
                return False
            found[:] = [(int(engine["pid"]), int(engine["url"].rsplit(":", 1)[1]))]
            return True

        await wait(there, "the engine is ready")
        return found[0]

    async def restart_engine(self) -> None:
        await get(self.port, "/admin/engines/e0/restart", method="POST", headers=f"x-api-key: {ADMIN_KEY}\r\n")

    # What can be seen.

    def read_log(self, *, cut: bool = False) -> None:
        """Give the books the lines that are new; `cut`: empty the file then, when nobody writes to it."""
        with self._log.open("r+b") as file:
            file.seek(self._read)
            data = self._rest + file.read()
            self._read = file.tell()
            whole, _, self._rest = data.rpartition(b"\n")
            if cut:
                file.truncate(0)
                self._read = 0
        self._books.read_log(whole)

    def log_bytes(self) -> int:
        return self._log.stat().st_size

    def resident_bytes(self) -> int:
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> list[int]:
        """The gateway's open files."""
        return sorted(int(name) for name in os.listdir(f"/proc/{self.pid}/fd"))

    def connections_to(self, port: int) -> int:
        """How many of its files are connections to this port on loopback."""
        inodes = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
        found = 0
        for number in self.files():
            with contextlib.suppress(OSError):
                found += os.readlink(f"/proc/{self.pid}/fd/{number}") in inodes
        return found

    async def tasks(self) -> int:
        self.board.tasks = -1

        async def told() -> bool:
            self.signal(signal.SIGUSR1)
            await asyncio.sleep(0.05)
            return self.board.tasks >= 0

        await wait(told, "the gateway counts its tasks", 10.0)
        return self.board.tasks

    async def samples(self) -> dict[str, float]:
        """`/metrics`, by name and labels as they are written."""
        status, body = await get(self.port, "/metrics")
        if status != 200:
            raise StageError(f"/metrics: {status}")
        found: dict[str, float] = {}
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found


def total(samples: dict[str, float], name: str, *labels: str) -> float:
    """The sum of the samples so called whose labels have these, each as `label="value"`."""
    return sum(
        value
        for series, value in samples.items()
        if series.partition("{")[0] == name and all(label in series for label in labels)
    )


async def get(port: int, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> tuple[int, bytes]:
    """On a connection of its own; status 0 where there is no answer."""
    try:
        async with asyncio.timeout(10.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{headers}"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    head, _, content = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        content = _unchunked(content)
    return (int(head.split(b" ", 2)[1]) if head else 0), content


def _unchunked(content: bytes) -> bytes:
    out = b""
    while content:
        size, _, rest = content.partition(b"\r\n")
        out += rest[: int(size or b"0", 16)]
        content = rest[int(size or b"0", 16) + 2 :]
    return out


async def wait(look: Callable[[], Any], what: str, within_s: float = WAIT_S) -> None:
    """Until an awaited look is true. Raises StageError."""
    until = time.monotonic() + within_s
    while True:
        with contextlib.suppress(StageError, ValueError, KeyError):
            if await look():
                return
        if time.monotonic() > until:
            raise StageError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.05)


def marked(life: str) -> list[int]:
    """Living processes that carry the mark of this life, but for our own."""
    wanted = f"{MARK}={life}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError, IndexError):
            if wanted not in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                continue
            if Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                found.append(int(name))
    return found


def named(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()[:120]}"
    return str(pid)


def children(pid: int) -> list[int]:
    """All below a process."""
    return tree(pid)[1:]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
