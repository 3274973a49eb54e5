"""The whole way by lane: an engine's socket, an exchange, a reply, and a client's socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop

from headgate.relay.express import Lanes
from headgate.relay.reply import FinalEvent
from headgate.relay.upstream import Exchange, Headers, Upstream
from tests.relay.test_exchange import read_all, run
from tests.relay.test_reply import END, SSE, Client, Rig, chunked
from tests.relay.test_splits import DONE, STOP, STREAMS, USAGE, USUAL, WORDS, framed, pieces_of, unframed
from tests.relay.test_splits import run as by_hand

_express: Any = pytest.importorskip("headgate.relay._express", reason="only where it is compiled: make test-compiled")

HEAD = SSE + b"transfer-encoding: chunked\r\n\r\n"


class OnSocket(Client):
    """A sink on a socket: chunks with their framing, as the connection of a client sends them."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self.transport = transport
        self.seen: list[str] = []

    def start(self, status: int, headers: Headers) -> None:
        self.status = status

    def write(self, data: bytes) -> None:
        self.first.set()
        self.seen.append("written")
        self.transport.write(framed(data))

    def takes_chunks(self) -> asyncio.Transport | None:
        return self.transport

    def end(self) -> None:
        self.transport.write(END)
        self.transport.close()

    def cut(self) -> None:
        self.transport.close()


class Side(asyncio.Protocol):
    """The client's connection, as far as it matters here."""

    sink: Client | None = None

    def pause_writing(self) -> None:
        assert self.sink is not None
        assert self.sink.on_pause is not None
        self.sink.on_pause()

    def resume_writing(self) -> None:
        assert self.sink is not None
        assert self.sink.on_resume is not None
        self.sink.on_resume()


class Way:
    """From an engine that says what the test sends to a client's socket that the test reads."""

    def __init__(self, upstream: Upstream, rig: Rig, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        self.upstream, self.rig, self.exchange, self.reader = upstream, rig, exchange, reader
        self.task = asyncio.create_task(rig.reply.carry(exchange, b"x", rig.slot))

    def has_lane(self) -> bool:
        return self.exchange._lane is not None


Engine = Callable[[asyncio.StreamWriter], Awaitable[None]]


def play(engine: Engine, claim: Callable[[Way], Awaitable[None]]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            await engine(writer)

    async def joined(upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader, writer = await asyncio.open_connection(sock=theirs)
        transport, side = await loop.create_connection(Side, sock=ours)
        transport.set_write_buffer_limits(high=256 * 1024)
        side.sink = sink = OnSocket(transport)
        rig = Rig(sink, final_event=FinalEvent.OFF)
        way = Way(upstream, rig, await upstream.connect(), reader)
        try:
            await claim(way)
        finally:
            way.task.cancel()
            transport.abort()
            writer.close()

    run(serve, joined)


async def turns(of: int = 20) -> None:
    for _ in range(of):
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_by_lane_is_the_same_stream(name: str) -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in STREAMS[name]]

    async def engine(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for data in [*chunks, *([] if name == "cut" else [END])]:
            writer.write(data)
            await turns(6)
        if name in ("cut", "error"):
            writer.close()

    expected = by_hand(pieces_of(name, ()))

    async def claim(way: Way) -> None:
        ending = await way.task
        got = b"".join(unframed(await way.reader.read()))
        assert (got, way.rig.reply.events, ending) == expected
        assert way.rig.slot.released == 1

    play(engine, claim)


def test_events_pass_by_lane_and_are_counted() -> None:
    count = 300

    async def engine(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for at in range(count):
            writer.write(framed(WORDS[at % len(WORDS)]))
            await turns(3)
        writer.write(framed(STOP, USAGE, DONE) + END)

    async def claim(way: Way) -> None:
        gaps: list[float] = []
        way.rig.reply.gap = gaps.append
        sink = cast("OnSocket", way.rig.client)
        got = b""
        while way.rig.reply.events < count // 2:
            got += await way.reader.read(1 << 16)
        assert way.has_lane()
        way.rig.reply.count()
        ending = await way.task
        got += await way.reader.read()
        assert ending.reason == "ok"
        assert unframed(got).count(b"") == 1
        assert b"".join(unframed(got)).count(b" word") == count
        assert way.rig.reply.events == count + 1
        assert len(gaps) == count
        assert len(sink.seen) < 10, "the others didn't come by"
        # Its connection serves the next exchange, read by its transport again.
        assert way.upstream.idle() is way.exchange
        second = Rig(Client())
        assert (await second.reply.carry(way.exchange, b"x", second.slot)).reason == "ok"

    play(engine, claim)


def test_a_client_that_reads_late_holds_back_the_engine_and_gets_it_all_in_order() -> None:
    sent = 0
    events = [WORDS[0].replace(b" word0", b" word%06d" % at) for at in range(100_000)]

    async def engine(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for data in (HEAD + framed(WORDS[0]), framed(WORDS[0])):
            writer.write(data)
            await turns()
        for at in range(0, len(events), 10):
            writer.write(framed(*events[at : at + 10]))
            await writer.drain()
            sent += 10
        writer.write(framed(STOP, DONE) + END)

    async def claim(way: Way) -> None:
        before = -1
        while sent != before or not sent:
            before = sent
            await turns(2000)
        assert way.has_lane()
        assert sent < len(events), "it was held back"
        got = await way.reader.read()
        assert (await way.task).reason == "ok"
        assert b"".join(unframed(got)) == b"".join([WORDS[0], WORDS[0], *events, STOP, DONE])
        assert way.rig.reply.events == len(events) + 3

    play(engine, claim)


def test_an_exchange_that_is_aborted_leaves_no_lane_and_no_descriptor() -> None:
    left = asyncio.Event()

    async def engine(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        try:
            while not writer.is_closing():
                writer.write(framed(WORDS[0]))
                await writer.drain()
                await turns(2)
        finally:
            left.set()

    async def claim(way: Way) -> None:
        while not way.has_lane():
            await way.reader.read(1 << 16)
        before = len(os.listdir("/proc/self/fd"))
        way.task.cancel()
        await asyncio.gather(way.task, return_exceptions=True)
        assert not way.has_lane()
        assert way.rig.slot.released == 1
        async with asyncio.timeout(10):
            await left.wait()
        await turns()
        # The lane's own, and the two ends of the engine's connection.
        assert len(os.listdir("/proc/self/fd")) <= before - 2

    play(engine, claim)


def test_a_lane_that_cannot_go_on_is_left_to_the_transport() -> None:
    class Full:
        def pause(self) -> None: ...
        def close(self) -> None: ...
        def resume(self) -> None:
            raise OSError(errno.ENOSPC, "no room")

    told = asyncio.Event()

    async def engine(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while not told.is_set():
            writer.write(framed(WORDS[0]))
            await turns(3)
        writer.write(framed(STOP, DONE) + END)

    async def claim(way: Way) -> None:
        while not way.has_lane():
            await way.reader.read(1 << 16)
        real = way.exchange._lane
        assert real is not None
        way.exchange.pause()
        way.exchange._lane = cast("Any", Full())
        real.close()
        way.exchange.resume()
        assert not way.has_lane()
        told.set()
        ending, _ = await asyncio.gather(way.task, way.reader.read())
        assert ending.reason == "ok"

    play(engine, claim)


def test_an_upstream_that_is_closed_ends_what_goes_by_lane() -> None:
    async def engine(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while not writer.is_closing():
            writer.write(framed(WORDS[0]))
            await writer.drain()
            await turns(2)

    async def claim(way: Way) -> None:
        while not way.has_lane():
            await way.reader.read(1 << 16)
        way.upstream.close()
        assert (await way.task).reason == "engine_failed"
        assert way.rig.slot.released == 1

    play(engine, claim)


@pytest.mark.parametrize("closed", ["engine", "client"])
def test_a_closing_transport_gets_no_lane(closed: str) -> None:
    """It still tells its socket's number, which may be another's by now."""

    async def claim(upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        ends = {
            name: (await loop.create_connection(asyncio.Protocol, "127.0.0.1", upstream.port))[0]
            for name in ("engine", "client")
        }
        lanes = Lanes(loop)
        lane = lanes.open(ends["engine"], ends["client"], print, print)
        assert lane is not None
        lane.close()
        ends[closed].abort()
        assert lanes.open(ends["engine"], ends["client"], print, print) is None
        lanes.close()
        for end in ends.values():
            end.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    run(serve, claim)


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_nothing_follows_what_a_closed_transport_has_lost(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A client that half-closes is dropped with what it had still to read, and its request ends a turn later."""

    async def claim() -> None:
        loop = asyncio.get_running_loop()
        engine, near = socket.socketpair()
        far, client = socket.socketpair()
        for end in (engine, near, far, client):
            end.setblocking(False)
        of_engine, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        of_client, _ = await loop.create_connection(asyncio.Protocol, sock=far)
        given: list[bytes] = []
        lanes = Lanes(loop)
        lane = lanes.open(of_engine, of_client, given.append, lambda: None)
        assert lane is not None
        of_engine.pause_reading()
        lane.arm(USUAL.head, USUAL.end)
        of_client.write(b"x" * (1 << 22))
        assert of_client.get_write_buffer_size()
        of_client.abort()
        await turns()
        got = read_all(client)
        engine.sendall(framed(WORDS[0]))
        await turns()
        got += read_all(client)
        assert got.strip(b"x") == b""
        lane.close()
        lanes.close()
        of_engine.abort()
        await turns()
        for end in (engine, client):
            end.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(claim(), 10))


@pytest.mark.parametrize("lacks", ["epoll", "reader"])
def test_without_files_for_it_there_is_no_lane_and_no_error(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        def add_reader(self, *_: object) -> None:
            if lacks == "reader":
                raise OSError(errno.EMFILE, "too many")

    def none_left() -> None:
        raise OSError(errno.EMFILE, "too many")

    async def claim(upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        ends = [(await loop.create_connection(asyncio.Protocol, "127.0.0.1", upstream.port))[0] for _ in range(2)]
        lanes = Lanes(cast("Any", Loop()))
        with monkeypatch.context() as patch:
            if lacks == "epoll":
                patch.setattr(_express, "Express", none_left)
            for _ in range(2):
                assert lanes.open(ends[0], ends[1], print, print) is None
        for end in ends:
            end.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    run(serve, claim)


def test_chunks_of_an_answer_without_a_lane_are_as_before() -> None:
    """A client that isn't sent chunks has none, for one."""

    async def engine(writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + chunked(*STREAMS["plain"]) + END)

    async def claim(upstream: Upstream) -> None:
        rig = Rig(Client(), final_event=FinalEvent.OFF)
        exchange = await upstream.connect()
        assert (await rig.reply.carry(exchange, b"x", rig.slot)).reason == "ok"
        assert exchange._lane is None

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            await engine(writer)

    run(serve, claim)
