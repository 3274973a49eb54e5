"""One GET is read to its end however that end is told, and what is no whole answer is none."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import uvloop

from headgate.pool import fetch
from headgate.pool.fetch import Answer, Slow, Unreachable
from headgate.pool.launchers import LOOPBACK, Address

T = TypeVar("T")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


class Engine:
    """Answers whatever is asked with the same bytes, in pieces, and notes what was asked."""

    def __init__(self, *pieces: bytes, closes: bool) -> None:
        self._pieces, self._closes = pieces, closes
        self.asked = b""
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.asked = await reader.readuntil(b"\r\n\r\n")
            for piece in self._pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if not self._closes:
                await reader.read()
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        self.left.set()


def ask(engine: Engine, look: Callable[[int], Awaitable[T]]) -> T:
    async def run() -> T:
        async with await asyncio.start_server(engine, LOOPBACK, 0) as server:
            try:
                return await look(server.sockets[0].getsockname()[1])
            finally:
                await engine.left.wait()  # the connection isn't left open

    return asyncio.run(run())


def look(engine: Engine, answer_s: float = 30.0) -> Answer:
    async def one(port: int) -> Answer:
        return await fetch.get(Address(LOOPBACK, port), "/metrics", connect_s=30.0, answer_s=answer_s)

    return ask(engine, one)


@pytest.mark.parametrize(
    ("pieces", "closes"),
    [
        ((HEAD + b"content-length: 5\r\n\r\nhello",), False),
        ((HEAD + b"content-length: 5\r\n\r\nhe", b"l", b"lo"), False),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"), False),
        ((HEAD + b"\r\n", b"hel", b"lo"), True),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"content-length: 5\r\n\r\nhello"), False),
    ],
    ids=["length", "pieces", "chunks", "until it closes", "interim"],
)
def test_an_answer_is_whole_however_its_end_is_told(pieces: tuple[bytes, ...], closes: bool) -> None:
    assert look(Engine(*pieces, closes=closes)) == Answer(200, "text/plain", b"hello")


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"HTTP/1.1 200 OK\r\n",),
        (HEAD + b"content-length: 5\r\n\r\nhell",),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",),
        (b"SSH-2.0-OpenSSH_9.6\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
    ],
    ids=["nothing", "half a head", "short of its length", "no last chunk", "not HTTP", "interim alone"],
)
def test_what_is_not_whole_is_no_answer(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(Unreachable):
        look(Engine(*pieces, closes=True))


def test_an_answer_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MOST_BYTES", 1000)
    with pytest.raises(Unreachable, match="longer than 1000 bytes"):
        look(Engine(HEAD + b"\r\n" + b"x" * 1001, closes=False))


def test_silence_is_slow() -> None:
    with pytest.raises(Slow):
        look(Engine(HEAD, closes=False), answer_s=0.01)


def test_nobody_there_is_unreachable() -> None:
    async def one() -> None:
        async with await asyncio.start_server(Engine(closes=True), LOOPBACK, 0) as server:
            port = server.sockets[0].getsockname()[1]
        await fetch.get(Address(LOOPBACK, port), "/health", connect_s=30.0, answer_s=30.0)

    with pytest.raises(Unreachable, match="GET /health"):
        asyncio.run(one())


def test_it_says_who_asks_and_where() -> None:
    engine = Engine(HEAD + b"content-length: 0\r\n\r\n", closes=False)

    async def one(port: int) -> int:
        address = Address(LOOPBACK, port, prefix="/deep")
        await fetch.get(address, "/health", api_key="K", connect_s=30.0, answer_s=30.0)
        return port

    port = ask(engine, one)
    assert engine.asked.startswith(b"GET /deep/health HTTP/1.1\r\n")
    assert b"\r\nhost: 127.0.0.1:%d\r\n" % port in engine.asked
    assert b"\r\nauthorization: Bearer K\r\n" in engine.asked


def test_a_look_leaves_nothing_for_the_collector() -> None:
    """There is one each second for as long as the gateway runs."""

    async def one(port: int) -> None:
        await fetch.get(Address(LOOPBACK, port), "/health", connect_s=30.0, answer_s=30.0)

    gc.collect()
    gc.disable()
    try:
        ask(Engine(HEAD + b"content-length: 0\r\n\r\n", closes=False), one)
        assert not [each for each in gc.get_objects() if isinstance(each, fetch._Reading)]
    finally:
        gc.enable()


def test_why_there_is_no_connection_is_said_in_words() -> None:
    """On the page stood "[Errno 111] Connection refused"."""
    with pytest.raises(Unreachable) as why:
        uvloop.run(fetch.get(Address(LOOPBACK, 9), "/metrics", connect_s=30.0, answer_s=30.0))
    assert str(why.value) == "GET /metrics: Connection refused"
