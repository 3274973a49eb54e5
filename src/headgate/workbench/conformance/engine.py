"""What is behind the gateway, as far as it can be asked: the scripted engine, or a vLLM's own gauges.

The scripted engine is the simulated one, a process of ours: it tells how many requests it answers at once, to the one
(a connection that its client has closed is not counted, even before the engine has noticed), and fails as it is told.
A vLLM is looked at through ``/metrics``, often; what happens between two looks is not seen.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx

from headgate.workbench.compare.start import NotStarted, environment, last_words

MODEL = "headgate-simulated"
EVENT_S = 0.02
"""Between two events of a scripted stream."""

_FLAGS = (
    *("--load-s", "0", "--base-s", f"{EVENT_S - 0.0004}", "--per-sequence-s", "0.0001"),
    *("--per-prefill-token-s", "0.00001", "--max-num-batched-tokens", "1000000", "--no-prefix-caching"),
    *("--max-num-seqs", "8192", "--max-model-len", "1000000", "--num-gpu-blocks", "10000000"),
)
_LOOK_S = 0.02
_STARTS_WITHIN_S = 30.0


class Most:
    """The most requests at once that were seen while it was watched."""

    def __init__(self) -> None:
        self.most = 0


class Engine(Protocol):
    """What a case may ask of any engine."""

    async def open(self) -> int:
        """Requests on it now."""

    async def until_open(self, count: int, within_s: float) -> bool:
        """Wait until so many are on it; whether they were in time."""

    def watched(self) -> Any:
        """``async with engine.watched() as seen``: afterwards ``seen.most``."""


class Scripted:
    """The simulated engine as a process of ours, on a port that it keeps when it is started again."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port
        self._log = folder / "engine.log"
        self._process: subprocess.Popen[str] | None = None
        self._http = httpx.AsyncClient(trust_env=False, timeout=30.0, limits=httpx.Limits(max_keepalive_connections=0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, or start it again. Raises NotStarted."""
        self.stop()
        argv = [sys.executable, "-m", "headgate.simulator", "--port", str(self.port), "--model-name", MODEL, *_FLAGS]
        with self._log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  this Python, with arguments of our own; it is there at once
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**environment(os.environ), "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75"},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_STARTS_WITHIN_S):
                line = await asyncio.to_thread(self._process.stdout.readline)
        except TimeoutError:
            line = ""
        if not line.startswith("listening on "):
            self.stop()
            raise NotStarted(f"the scripted engine did not start: {last_words(self._log)}")
        self.port = int(line.rsplit(":", 1)[1])

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it, hanging or not."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    async def close(self) -> None:
        self.stop()
        await self._http.aclose()

    async def calm(self) -> None:
        """No faults any more; started again where it is not there."""
        if not self.alive:
            await self.start()
        await self._ask("DELETE", "/simulator/faults")

    async def fault(self, kind: str, **fields: Any) -> None:
        """One fault more; see ``simulator.faults``."""
        reply = await self._ask("POST", "/simulator/faults", json={"kind": kind, **fields})
        reply.raise_for_status()

    async def state(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._ask("GET", "/simulator/state")).json()
        return found

    async def recent(self) -> list[str]:
        """How the bodies of the last requests began, in the order in which they came."""
        found: list[str] = (await self._ask("GET", "/simulator/recent")).json()
        return found

    async def open(self) -> int:
        return int((await self.state())["open"])

    async def until_open(self, count: int, within_s: float) -> bool:
        reply = await self._ask("GET", f"/simulator/state?open={count}&timeout_s={within_s}", timeout=within_s + 10)
        return reply.status_code == 200

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Most]:
        await self._ask("DELETE", "/simulator/state")
        seen = Most()
        try:
            yield seen
        finally:
            with suppress(httpx.HTTPError):
                seen.most = int((await self.state())["max_open_seen"])

    async def says(self, body: dict[str, Any]) -> str:
        """What it answers when it is asked directly."""
        reply = await self._ask("POST", "/v1/chat/completions", json={**body, "stream": False}, timeout=120.0)
        return str(reply.json()["choices"][0]["message"]["content"])

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self._http.request(method, f"{self.url}{path}", **more)


class Gauges:
    """A vLLM that somebody else runs, by its metrics: requests running and waiting."""

    def __init__(self, url: str) -> None:
        self._url = url if url.rstrip("/").endswith("/metrics") else f"{url.rstrip('/')}/metrics"
        self._http = httpx.AsyncClient(trust_env=False, timeout=10.0)

    async def open(self) -> int:
        page = (await self._http.get(self._url)).raise_for_status().text
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", page, re.MULTILINE)
        if not found:
            raise NotStarted(f"{self._url} has no vllm:num_requests_running")
        return round(sum(float(value) for value in found))

    async def until_open(self, count: int, within_s: float) -> bool:
        give_up_at = asyncio.get_running_loop().time() + within_s
        while await self.open() != count:
            if asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Most]:
        seen = Most()

        async def look() -> None:
            while True:
                seen.most = max(seen.most, await self.open())
                await asyncio.sleep(_LOOK_S)

        looking = asyncio.create_task(look())
        try:
            yield seen
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def close(self) -> None:
        await self._http.aclose()
