"""A small gateway that keeps its word, but for the flaw that it is asked for: what the conformance suite must find.

python -m tests.workbench.flawed_gateway PORT ENGINE_PORT [FLAW]

``no-cap``: everything goes through. ``lost-slots``: a client that leaves takes its slot with it. ``runs-on``: the
engine goes on for a client that has left. ``newest-first``: who came last is served first. ``looks-whole``: an answer
that the engine cut short gets a proper end. ``doubles``: an event comes twice. ``plain-refusals``: words instead of
OpenAI's error.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

SLOTS = 4
LINE = 16
WAIT_S = 10.0


class TurnedAway(Exception):
    """No slot for this one."""


class Gateway:
    """Slots, a line, and bytes passed on."""

    def __init__(self, engine_port: int, flaw: str) -> None:
        self._engine_port = engine_port
        self._flaw = flaw
        self._active = 0
        self._line: deque[asyncio.Future[None]] = deque()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if b"content-length:" in line), 0)
            request = head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + await reader.readexactly(length)
            leaves = asyncio.create_task(reader.read(1))
            answer = asyncio.create_task(self._answer(request, writer))
            if self._flaw == "runs-on":
                await answer
            else:
                await asyncio.wait({leaves, answer}, return_when=asyncio.FIRST_COMPLETED)
            for task in (leaves, answer):
                task.cancel()
            await asyncio.gather(leaves, answer, return_exceptions=True)
        writer.close()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._slot():
                await self._pass_on(request, writer)
        except TurnedAway:
            error = {"message": "busy", "type": "rate_limit_error", "param": None, "code": "queue_full"}
            body = b"busy" if self._flaw == "plain-refusals" else json.dumps({"error": error}).encode()
            head = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await writer.drain()

    async def _pass_on(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        from_engine, to_engine = await asyncio.open_connection("127.0.0.1", self._engine_port)
        whole = False
        size = expected = 0
        try:
            to_engine.write(request)
            for number in range(1_000_000):
                data = await from_engine.read(65536)
                if not data:
                    break
                if not size:
                    head, _, _ = data.partition(b"\r\n\r\n")
                    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if b"content-length:" in line]
                    expected = len(head) + 4 + lengths[0] if lengths else 0
                size += len(data)
                whole = data.endswith(b"0\r\n\r\n") or 0 < expected <= size
                with suppress(OSError):
                    writer.write(data * 2 if self._flaw == "doubles" and number == 7 else data)
                    await writer.drain()
                if whole:
                    break  # who leaves now has the answer: it must not lose its slot for the engine to close
            if self._flaw == "looks-whole" and not whole:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        finally:
            to_engine.close()

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._active >= SLOTS and self._flaw != "no-cap":
            await self._wait()
        else:
            self._active += 1
        try:
            yield
        except asyncio.CancelledError:
            if self._flaw != "lost-slots":
                self._next()
            raise
        else:
            self._next()

    async def _wait(self) -> None:
        if len(self._line) >= LINE:
            raise TurnedAway
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except TimeoutError:
            raise TurnedAway from None
        finally:
            if turn in self._line:
                self._line.remove(turn)

    def _next(self) -> None:
        """The slot goes to the next in line."""
        while self._line:
            turn = self._line.pop() if self._flaw == "newest-first" else self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._active -= 1


async def main(port: int, engine_port: int, flaw: str) -> None:
    server = await asyncio.start_server(Gateway(engine_port, flaw).serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or ["none"])[0]))
