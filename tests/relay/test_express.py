"""Lanes, where they are compiled: the same bytes in the same order as without them, and to nobody else."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import app
from headgate.relay.express import Lanes
from headgate.relay.reply import FinalEvent
from headgate.relay.upstream import Exchange, Headers, Upstream
from headgate.settings import Settings
from tests.relay.test_exchange import run
from tests.relay.test_reply import END, SSE, Client, Rig, chunked
from tests.relay.test_splits import DONE, ERROR, LONG, STOP, STREAMS, USAGE, USUAL, WORDS, framed, pieces_of
from tests.relay.test_splits import run as by_hand

_express: Any = pytest.importorskip("headgate.relay._express", reason="only where it is compiled: make test-compiled")

HEAD = SSE + b"transfer-encoding: chunked\r\n\r\n"


class Lane:
    """A lane between two socket pairs, and what becomes of what the engine says."""

    def __init__(self, express: Any) -> None:
        self._express = express
        self.engine, near = socket.socketpair()
        self.client, far = socket.socketpair()
        self.near, self.far = near, far
        for end in (self.engine, self.client, near, far):
            end.setblocking(False)
        self.given: list[bytes] = []
        self.written: list[bytes] = []
        self.left = 0
        self.ends = 0
        self.gone = False
        self.on_given: Callable[[], object] = lambda: None
        self.lane = express.open(
            near.fileno(), far.fileno(), self._received, self._over, self._write, lambda: self.left
        )

    def _received(self, data: bytes) -> None:
        self.given.append(data)
        self.on_given()

    def _over(self) -> None:
        self.ends += 1
        self.lane.close()

    def _write(self, data: bytes) -> None:
        if self.gone:
            raise RuntimeError("closed")
        self.written.append(data)
        self.left += len(data)

    def arm(self) -> None:
        self.lane.arm(USUAL.head, USUAL.end)

    def say(self, data: bytes) -> None:
        self.engine.sendall(data)
        self._express.run()

    def got(self) -> bytes:
        return read_all(self.client)

    def close(self) -> None:
        self.lane.close()
        for end in (self.engine, self.client, self.near, self.far):
            end.close()


def read_all(end: socket.socket) -> bytes:
    data = b""
    try:
        while more := end.recv(1 << 20):
            data += more
    except BlockingIOError:
        pass
    return data


@pytest.fixture
def express() -> Any:
    return _express.Express()


@pytest.fixture
def lane(express: Any) -> Iterator[Lane]:
    lane = Lane(express)
    lane.arm()
    yield lane
    lane.close()


READS = [
    *(framed(*WORDS[:of]) for of in (1, 2, 6)),
    *(framed(event) for event in (STOP, LONG, USAGE, DONE, ERROR, b": keep-alive\n\n", WORDS[0] + WORDS[1])),
    *(framed(WORDS[0], other, WORDS[1]) for other in (STOP, LONG, USAGE, b"\n\n")),
    framed(WORDS[0]).upper(),
    b"0" + framed(WORDS[0]),
    b"5\r\n" + framed(*WORDS),
    framed(*WORDS) + END,
    framed(*(event.replace(b"\n", b"\r\n") for event in WORDS)),
    *(b"fff" + framed(WORDS[0])[:cut] for cut in range(5)),
]


@settings(max_examples=500, deadline=None)
@given(
    read=st.sampled_from(READS),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    other=st.none() | st.tuples(st.integers(0, 1 << 12), st.binary(min_size=1, max_size=1)),
)
def test_what_is_usual_is_the_same_in_python(
    read: bytes, cut: tuple[int, int], other: tuple[int, bytes] | None
) -> None:
    if other is not None:
        at = other[0] % len(read)
        read = read[:at] + other[1] + read[at + 1 :]
    read = read[cut[0] if cut[0] > 15 else 0 : len(read) - (cut[1] if cut[1] > 15 else 0)]
    if not read:
        return
    lane = Lane(_express.Express())
    try:
        lane.arm()
        lane.say(read)
        usual = USUAL.several(read)
        assert lane.lane.came == usual
        assert (lane.got(), lane.given) == ((read, []) if usual else (b"", [read]))
    finally:
        lane.close()


def test_times_are_those_of_the_reads(lane: Lane) -> None:
    lane.say(framed(WORDS[0]))
    lane.say(framed(*WORDS[1:4]))
    assert lane.lane.came == 4
    times, bunched = lane.lane.take()
    assert times == sorted(times)
    assert len(set(times)) == 2
    assert bunched
    assert lane.lane.take() == ([], False)
    for _ in range(100):
        lane.say(framed(WORDS[0]))
    times, bunched = lane.lane.take()
    assert (len(times), bunched) == (100, False)


def test_nothing_is_usual_until_it_is_armed_again(lane: Lane) -> None:
    lane.say(framed(STOP))
    lane.say(framed(WORDS[0]))
    assert lane.given == [framed(STOP), framed(WORDS[0])]
    lane.arm()
    lane.say(framed(WORDS[1]))
    assert lane.got() == framed(WORDS[1])


def test_a_shape_that_is_too_long_is_not_usual(lane: Lane) -> None:
    lane.lane.arm(USUAL.head + b"x" * 600, USUAL.end)
    lane.say(framed(WORDS[0]))
    assert lane.given == [framed(WORDS[0])]


def test_nothing_overtakes_what_the_transport_holds(lane: Lane) -> None:
    lane.say(framed(WORDS[0]))
    lane.say(framed(STOP))  # whatever Python makes of it, it may write
    lane.left = 9
    lane.arm()
    lane.say(framed(WORDS[1]))
    assert lane.got() == framed(WORDS[0])
    assert lane.written == [framed(WORDS[1])]
    lane.left = 0
    lane.say(framed(WORDS[2]))
    assert lane.got() == framed(WORDS[2])


def test_what_the_client_does_not_take_goes_to_its_transport(lane: Lane) -> None:
    said = b""
    while not lane.written:
        said += framed(*WORDS)
        lane.say(framed(*WORDS))
    said += framed(WORDS[0])
    lane.say(framed(WORDS[0]))
    taken = lane.got()
    assert taken + b"".join(lane.written) == said
    assert lane.given == []


def test_a_client_that_has_gone_is_for_python(lane: Lane) -> None:
    lane.gone = True
    lane.client.close()
    lane.say(framed(WORDS[0]))
    assert lane.given == [framed(WORDS[0])]
    assert lane.lane.came == 0


def test_a_lane_closed_while_its_transport_is_asked_sends_nothing(express: Any) -> None:
    lane = Lane(express)
    lane.lane.close()

    def closes() -> int:
        lane.lane.close()
        return 0

    lane.lane = express.open(lane.near.fileno(), lane.far.fileno(), lane.given.append, lane._over, lane._write, closes)
    lane.arm()
    lane.say(framed(WORDS[0]))
    assert (lane.got(), lane.written, lane.given) == (b"", [], [])
    lane.close()


def test_pause_leaves_everything_where_it_is(express: Any, lane: Lane) -> None:
    lane.lane.pause()
    lane.say(framed(WORDS[0]))
    assert lane.got() == b""
    lane.lane.resume()
    lane.lane.resume()
    express.run()
    assert lane.got() == framed(WORDS[0])


def test_more_than_a_read_holds_is_read_on(express: Any, lane: Lane) -> None:
    lane.engine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    said = framed(LONG) * 40
    lane.engine.sendall(said)
    for _ in range(8):
        express.run()
    assert b"".join(lane.given) == said
    assert len(lane.given) > 1


@pytest.mark.parametrize("how", ["end", "reset"])
def test_end_is_for_the_transport_and_so_is_what_came_before_it(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    client, far = socket.socketpair()
    express = _express.Express()
    ends: list[str] = []
    lane = express.open(near.fileno(), far.fileno(), ends.append, lambda: ends.append("over"), ends.append, lambda: 0)
    with near, client, far:
        engine.sendall(framed(WORDS[0]))
        if how == "reset":
            engine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        engine.close()
        select.select([express.fileno()], [], [], 10)
        express.run()
        lane.close()
        express.run()
        assert ends == ["over"]
        if how == "end":
            assert near.recv(1000) == framed(WORDS[0])
            assert near.recv(1000) == b""


def test_a_lane_closed_by_another_is_not_served(express: Any) -> None:
    lanes = [Lane(express) for _ in range(2)]
    first, second = lanes
    for one, other in ((first, second), (second, first)):
        one.on_given = other.lane.close
    for lane in lanes:
        lane.engine.sendall(framed(STOP))
    express.run()
    express.run()
    served = [lane for lane in lanes if lane.given]
    assert len(served) == 1
    (closed,) = (lane for lane in lanes if lane is not served[0])
    assert closed.near.recv(1000) == framed(STOP), "left for whoever reads now"
    for lane in lanes:
        lane.close()


def test_a_lane_that_closes_itself_while_it_is_served(express: Any, lane: Lane) -> None:
    lane.on_given = lane.lane.close
    lane.say(framed(STOP))
    lane.say(framed(STOP))
    assert lane.given == [framed(STOP)]
    lane.arm()
    lane.lane.resume()
    express.run()
    assert lane.given == [framed(STOP)]


def test_an_exception_is_told_and_stops_nothing(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)

    def fails() -> None:
        raise KeyError("x")

    lane.on_given = fails
    lane.say(framed(STOP))
    assert [type(each.exc_value) for each in told] == [KeyError]
    lane.on_given = lambda: None
    lane.say(framed(STOP))
    assert len(lane.given) == 2


def test_whoever_gets_the_number_of_a_closed_socket_gets_nothing_of_its_answer(lane: Lane) -> None:
    number = lane.far.detach()
    other, strange = socket.socketpair()
    os.dup2(strange.fileno(), number)  # which closes the one that had it
    with other, strange:
        lane.say(framed(WORDS[0]))
        other.setblocking(False)
        assert read_all(other) == b""
        assert lane.got() == framed(WORDS[0])
    os.close(number)


def test_no_descriptor_is_left(express: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    lane = Lane(express)
    lane.close()
    assert len(os.listdir("/proc/self/fd")) == before
    lane = Lane(express)
    for end in (lane.engine, lane.client, lane.near, lane.far):
        end.close()
    del lane
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "a lane is closed with its last reference"


def test_a_closed_socket_makes_no_lane(express: Any) -> None:
    end, other = socket.socketpair()
    with end:
        other.close()
        for ends in ((end.fileno(), -1), (-1, end.fileno())):
            with pytest.raises(OSError, match="Bad file"):
                express.open(*ends, print, print, print, int)


def test_files_are_kept_for_the_lanes_of_as_many_clients_as_may_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two a client, streams took the files that the last clients' engine connections needed."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    guard = app._guard(cast("Any", Settings)(), lambda _: None, is_open=True)
    assert guard.connections * 3 + app.FILES_KEPT <= 1024


# The whole way: an engine's socket, an exchange, a reply, and a client's socket.


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


def events_of(data: bytes) -> list[bytes]:
    """The chunks' data, with their framing taken off, strictly."""
    parts: list[bytes] = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        parts.append(rest[:length])
        data = rest[length + 2 :]
    return parts


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
        got = b"".join(events_of(await way.reader.read()))
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
        assert events_of(got).count(b"") == 1
        assert b"".join(events_of(got)).count(b" word") == count
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
        assert b"".join(events_of(got)) == b"".join([WORDS[0], WORDS[0], *events, STOP, DONE])
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
