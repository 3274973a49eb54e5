"""The engine's connection, with a receiver that the test chooses and a real socket behind it."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from headgate.relay.upstream import Headers, Unreachable, Upstream

DEADLINE_S = 10.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """Writes down what it is told, and fails where it shall."""

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[str] = []
        self.over = asyncio.Event()
        self._fails_at = fails_at

    def _note(self, what: str) -> None:
        self.told.append(what)
        if what == self._fails_at:
            raise KeyError(what)

    def on_head(self, status: int, headers: Headers) -> None:
        self._note("head")

    def on_data(self, data: bytes) -> None:
        self._note("data")

    def on_end(self) -> None:
        self.over.set()
        self._note("end")

    def on_broken(self, why: str, *, answered: bool) -> None:
        self.over.set()
        self._note("broken")

    def on_failed(self, error: Exception) -> None:
        self.over.set()
        self._note("failed")


async def _answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1000):
        writer.write(OK)


def run(serve: Serve, claim: Callable[[Upstream], Awaitable[None]]) -> None:
    async def bounded() -> None:
        served: set[asyncio.Task[None]] = set()

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            served.add(task)
            try:
                await serve(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        async with asyncio.timeout(DEADLINE_S):
            server = await asyncio.start_server(one, "127.0.0.1", 0)
            upstream = Upstream("127.0.0.1", server.sockets[0].getsockname()[1])
            try:
                await claim(upstream)
            finally:
                upstream.close()
                for task in served:
                    task.cancel()
                await asyncio.gather(*served, return_exceptions=True)
                server.close()
                await server.wait_closed()

    uvloop.run(bounded())


def read_all(end: socket.socket) -> bytes:
    """What has come by now; the socket doesn't block."""
    data = b""
    try:
        while more := end.recv(1 << 20):
            data += more
    except BlockingIOError:
        pass
    return data


@pytest.mark.parametrize("fails_at", ["data", "end"])
def test_exception_in_the_receiver_ends_the_exchange_and_is_told(
    fails_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a socket's callback it would close the connection, and the request would wait for ever."""

    async def claim(upstream: Upstream) -> None:
        receiver = Receiver(fails_at)
        (await upstream.connect()).send(b"x", receiver)
        await receiver.over.wait()
        while receiver.told[-1] != "failed":
            receiver.over.clear()
            await receiver.over.wait()
        assert receiver.told.count("failed") == 1
        assert upstream.idle() is None, "such a connection is not used again"

    run(_answering, claim)
    assert "could not be handled" in caplog.text


def test_exception_at_the_head_breaks_the_exchange() -> None:
    async def claim(upstream: Upstream) -> None:
        receiver = Receiver("head")
        (await upstream.connect()).send(b"x", receiver)
        await receiver.over.wait()
        assert receiver.told == ["head", "broken"]

    run(_answering, claim)


def test_connection_is_used_again_the_one_used_last_first() -> None:
    async def claim(upstream: Upstream) -> None:
        exchanges = [await upstream.connect() for _ in range(3)]
        for exchange in exchanges:
            receiver = Receiver()
            exchange.send(b"x", receiver)
            await receiver.over.wait()
            assert receiver.told == ["head", "data", "end"]
        assert [upstream.idle(), upstream.idle(), upstream.idle(), upstream.idle()] == [*reversed(exchanges), None]
        assert all(exchange.reused for exchange in exchanges)

    run(_answering, claim)


def test_aborted_exchange_tells_nothing_more() -> None:
    async def claim(upstream: Upstream) -> None:
        receiver = Receiver()
        exchange = await upstream.connect()
        exchange.send(b"x", receiver)
        exchange.abort()
        exchange.abort()
        exchange.pause()
        exchange.resume()
        other = Receiver()
        (await upstream.connect()).send(b"x", other)
        await other.over.wait()
        assert receiver.told == []

    run(_answering, claim)


def test_a_lost_connection_is_freed_at_once_without_the_collector() -> None:
    async def claim(upstream: Upstream) -> None:
        exchange = await upstream.connect()
        receiver = Receiver()
        exchange.send(b"x", receiver)
        await receiver.over.wait()
        gc.disable()
        try:
            exchange.abort()
            for _ in range(3):
                await asyncio.sleep(0)
            assert "open=0" in repr(upstream)
            ours = object()
            assert sys.getrefcount(exchange) == sys.getrefcount(ours), "its parser has let go of it"
        finally:
            gc.enable()

    run(_answering, claim)


def test_connection_that_is_closed_at_once_is_broken_or_unreachable_and_never_silent() -> None:
    """Lost between its making and its first use, nobody told whoever had sent on it."""

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def claim(upstream: Upstream) -> None:
        for _ in range(50):
            receiver = Receiver()
            try:
                exchange = await upstream.connect()
            except Unreachable:
                continue
            exchange.send(b"x", receiver)
            await receiver.over.wait()
            assert receiver.told == ["broken"]
        assert "open=0" in repr(upstream)

    run(slam, claim)


def test_paused_exchange_reads_nothing_until_it_is_resumed() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n" + bytes(50_000_000))
        await writer.drain()

    async def claim(upstream: Upstream) -> None:
        class Pausing(Receiver):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                exchange.pause()
                paused.set()

        paused = asyncio.Event()
        receiver = Pausing()
        exchange = await upstream.connect()
        exchange.send(b"x", receiver)
        while not receiver.over.is_set():
            async with asyncio.timeout(5):
                await paused.wait()
            paused.clear()
            count = len(receiver.told)
            other = Receiver()  # a whole exchange beside it passes
            if count < 3:
                probe = await upstream.connect()
                probe.send(b"x", other)
                probe.abort()
            assert len(receiver.told) == count
            exchange.resume()
            await asyncio.wait(
                {asyncio.create_task(paused.wait()), asyncio.create_task(receiver.over.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
        assert receiver.told[-1] == "end"

    run(flood, claim)


def test_answer_to_a_request_that_was_not_read_whole_ends_the_connection() -> None:
    """The next request stood behind what nobody would read, until its time was over."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(OK)
        await asyncio.Event().wait()

    async def claim(upstream: Upstream) -> None:
        receiver = Receiver()
        (await upstream.connect()).send(bytes(30_000_000), receiver)
        await receiver.over.wait()
        assert receiver.told == ["head", "data", "end"]
        assert upstream.idle() is None
        for _ in range(3):
            await asyncio.sleep(0)
        assert "open=0" in repr(upstream), "nobody waits until the rest is read"

    run(early, claim)


@pytest.mark.parametrize("by_reset", [False, True])
def test_body_that_ends_with_its_connection_is_whole_unless_that_is_reset(by_reset: bool) -> None:
    """A JSON cut in its midst was passed on as an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nsome of it")
        await reader.read(1000)
        if by_reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def claim(upstream: Upstream) -> None:
        class Going(Receiver):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                assert exchange.transport is not None
                exchange.transport.write(b"now")

        receiver = Going()
        exchange = await upstream.connect()
        exchange.send(b"x", receiver)
        await receiver.over.wait()
        assert receiver.told == ["head", "data", "broken" if by_reset else "end"]

    run(serve, claim)
