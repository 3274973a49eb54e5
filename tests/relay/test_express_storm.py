"""Lanes in a storm: whatever engines and clients do, each client gets its own stream, or a beginning of it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvloop

from headgate.relay.reply import Ending, EngineBroke, FinalEvent, StaleConnection
from headgate.relay.upstream import Exchange, Headers, Unreachable, Upstream
from tests.relay.test_reply import END, SSE, Client, Rig
from tests.relay.test_splits import DONE, chunk, framed

pytest.importorskip("headgate.relay._express", reason="only where it is compiled: make test-compiled")

HEAD = SSE + b"transfer-encoding: chunked\r\n\r\n"
ROUNDS, AT_ONCE, SEED = 3, 24, 1
"""Enough to lose streams on every way that is here; for more, more."""


class Story:
    """What one engine says, piece by piece, what of it the client is owed, and how it ends."""

    def __init__(self, chance: random.Random, name: str) -> None:
        self.chance = chance
        count = chance.choice((3, 30, 200, 600))
        most = chance.choice((10, 10, 200, 3800, 460))
        odd = chance.choice((0.0, 0.02, 0.3))
        self.events: list[bytes] = []
        chunks: list[bytes] = []
        for at in range(count):
            text = b" %b-%d " % (name.encode(), at) + b"x" * chance.randrange(most)
            event = chunk(text)
            kind = chance.random() if at else 1.0
            if kind > odd:
                chunks.append(framed(event))
            elif kind < odd / 6:
                event = b": note %b %d\n\n" % (name.encode(), at)
                chunks.append(framed(event))
            elif kind < odd / 3:
                event = chunk(text, b'"length"')
                chunks.append(framed(event))
            elif kind < odd / 2:
                cut = chance.randrange(1, len(event))
                chunks.append(framed(event[:cut], event[cut:]))
            elif kind < odd / 1.5:
                chunks.append(b"%X;ext=1\r\n%b\r\n" % (len(event), event))
            else:
                event += chunk(text + b"again")
                chunks.append(framed(event))
            self.events.append(event)
        self.ending = chance.choice(("whole", "whole", "whole", "end", "reset", "trailer", "spoilt"))
        if self.ending in ("whole", "trailer"):
            self.events.append(DONE)
            chunks.append(framed(DONE))
            chunks.append(END if self.ending == "whole" else b"0\r\nx-a: b\r\n\r\n")
        elif self.ending == "spoilt":
            chunks.append(b"zz\r\n")
        self.expected = b"".join(self.events)
        said = b"".join(chunks)
        how = chance.choice(("chunks", "several", "cut", "all"))
        if how == "chunks":
            self.pieces = chunks
        elif how == "several":
            self.pieces, at = [], 0
            while at < len(chunks):
                step = chance.randrange(1, 9)
                self.pieces.append(b"".join(chunks[at : at + step]))
                at += step
        elif how == "all":
            self.pieces = [*chunks[:2], b"".join(chunks[2:])]
        else:
            self.pieces, at = [], 0
            while at < len(said):
                step = chance.choice((chance.randrange(1, 40), chance.randrange(1, 5000), 65536))
                self.pieces.append(said[at : at + step])
                at += step
        self.reads = chance.choice(("all", "all", "slowly", "late"))
        self.leaves = chance.choice((None, None, None, "reset", "half", "close", "cancelled", "upstream"))
        self.left = False
        self.leaves_after = chance.randrange(1, len(self.expected) + 2)


class OnSocket(Client):
    """A sink on a socket, as ``Downstream`` is one."""

    def __init__(self, side: Side, transport: asyncio.Transport) -> None:
        super().__init__()
        self.side, self.transport = side, transport

    def start(self, status: int, headers: Headers) -> None:
        self.status = status

    def write(self, data: bytes) -> None:
        if not self.side.lost and data:
            self.transport.write(framed(data))

    def takes_chunks(self) -> asyncio.Transport | None:
        return None if self.side.lost else self.transport

    def end(self) -> None:
        if not self.side.lost:
            self.transport.write(END)

    def cut(self) -> None:
        self.transport.close()


class Side(asyncio.Protocol):
    """The client's connection, as far as it matters here."""

    seen: set[str]
    sink: Client | None = None
    gone: Callable[[], object] = staticmethod(lambda: None)
    lost = False
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=64 * 1024)

    def eof_received(self) -> None:
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.gone()

    def pause_writing(self) -> None:
        self.seen.add("paused")
        if self.sink is not None and self.sink.on_pause is not None:
            self.sink.on_pause()

    def resume_writing(self) -> None:
        if self.sink is not None and self.sink.on_resume is not None:
            self.sink.on_resume()


async def turns(of: int) -> None:
    for _ in range(of):
        await asyncio.sleep(0)


def payload_of(data: bytes) -> tuple[bytes, bool]:
    """What is in the chunks of which ``data`` is a beginning, and whether they have their end."""
    out, at = [], 0
    while at < len(data):
        end = data.find(b"\r\n", at)
        if end < 0:
            break
        length = int(data[at:end].split(b";")[0], 16)
        out.append(data[end + 2 : end + 2 + length])
        if end + 2 + length + 2 > len(data):
            break
        assert data[end + 2 + length : end + 4 + length] == b"\r\n", data[max(at - 100, 0) : at + 200]
        at = end + 4 + length
        if not length:
            assert at == len(data), "nothing comes behind the end"
            return b"".join(out), True
    return b"".join(out), False


def common(one: bytes, other: bytes) -> int:
    """How much they begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class Storm:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.stories: dict[bytes, Story] = {}
        self.seen: set[str] = set()
        self.wrong: list[object] = []
        self.exchange_of: dict[int, Exchange] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while name := (await reader.read(1000)):
                story = self.stories[name]
                chance = story.chance
                writer.write(HEAD)
                pace = chance.choice((0, 1, 3))
                for piece in story.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await turns(chance.randrange(pace + 1))
                if story.ending in ("end", "reset"):
                    if story.ending == "reset" and not writer.transport.is_closing():
                        writer.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        writer.transport.abort()
                    return
        except (ConnectionError, RuntimeError):
            pass
        finally:
            writer.close()

    async def read(self, story: Story, sock: socket.socket, got: bytearray, task: asyncio.Task[Any]) -> None:
        """Until the stream has its end, or the client leaves."""
        loop = asyncio.get_running_loop()
        chance = story.chance
        if story.reads == "late":
            await turns(chance.randrange(400))
        while not bytes(got[-7:]).endswith(b"\r\n0\r\n\r\n"):
            if story.reads == "slowly":
                await turns(chance.randrange(8))
                size = chance.randrange(1, 6000)
            else:
                size = 1 << 17
            if story.leaves is not None and len(got) >= story.leaves_after:
                story.left = True
                if story.leaves == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if story.leaves in ("reset", "close"):
                    sock.close()
                    return
                if story.leaves == "half":
                    sock.shutdown(socket.SHUT_WR)
                if story.leaves == "cancelled":
                    task.cancel()
                    return
                if story.leaves == "upstream":
                    story.leaves = None
                    self.exchange_of[id(task)].cut()
                    continue
                story.leaves = None
            try:
                data = await loop.sock_recv(sock, size)
            except ConnectionError:
                return
            if not data:
                return
            got += data

    async def client(self, name: str, upstream: Upstream, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if self.chance.random() < 0.5:  # with segments of loopback's size so small a window would be slow
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await loop.sock_connect(sock, server.getsockname())
        near = self.accepted.pop(sock.getsockname(), None)
        while near is None:
            await asyncio.sleep(0)
            near = self.accepted.pop(sock.getsockname(), None)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.chance.choice((4096, 1 << 17)))
        transport, side = await loop.create_connection(Side, sock=near)
        side.seen = self.seen
        try:
            for nth in range(self.chance.choice((1, 2, 4))):
                if not await self.request(f"{name}.{nth}", upstream, sock, transport, side):
                    break
        finally:
            transport.abort()
            sock.close()

    async def request(
        self, name: str, upstream: Upstream, sock: socket.socket, transport: asyncio.Transport, side: Side
    ) -> bool:
        story = Story(random.Random(self.chance.random()), name)
        self.stories[name.encode()] = story
        side.sink = sink = OnSocket(side, transport)
        rig = Rig(sink, final_event=FinalEvent.OFF)
        try:
            exchange = upstream.idle() or await upstream.connect()
        except Unreachable:
            return False
        if exchange.reused:
            self.seen.add("reused")
        task = asyncio.create_task(rig.reply.carry(exchange, name.encode(), rig.slot))
        self.exchange_of[id(task)] = exchange
        side.gone = task.cancel
        got = bytearray()
        reading = asyncio.create_task(self.read(story, sock, got, task))
        laned = False
        while not task.done():
            laned = laned or exchange._lane is not None
            await turns(5)
        self.seen.add("laned" if laned else "unlaned")
        (ending,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(ending, (EngineBroke, StaleConnection)):
            assert not got, (name, ending)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert rig.slot.released == isinstance(ending, EngineBroke), name
            return False
        if isinstance(ending, asyncio.CancelledError):
            self.seen.add("cancelled")
            if story.leaves == "cancelled":
                transport.abort()
        else:
            assert isinstance(ending, Ending), name
        await reading
        side.sink = None
        assert rig.slot.released == 1, name
        payload, ended = payload_of(bytes(got))
        own = common(payload, story.expected)
        rest = payload[own:]
        if isinstance(ending, Ending) and ending.reason == "ok":
            assert ended or story.left, name
            if ended:
                assert payload == story.expected, (name, own, rest[:300])
                wanted = sum(1 for event in story.events if event.startswith(b"data: {"))
                assert rig.reply.events <= sum(e.count(b"data: {") for e in story.events), name
                assert rig.reply.events >= wanted, (name, rig.reply.events, wanted)
                self.seen.add("whole")
                return not story.left
        if rest:
            at = payload.rfind(b"\n\n", 0, own) + 2 if own else 0
            told = b'data: {"error":{"message":"The answer was cut short'
            assert payload[at:].startswith(told) or told.startswith(payload[at:]), (name, own, story.ending, ending)
            self.seen.add("told")
        return False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.wrong.append(context))
        engine = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        upstream = Upstream("127.0.0.1", engine.sockets[0].getsockname()[1])
        self.accepted: dict[Any, socket.socket] = {}
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
            server.setblocking(False)

            def accept() -> None:
                near, peer = server.accept()
                near.setblocking(False)
                self.accepted[peer] = near

            loop.add_reader(server.fileno(), accept)
            try:
                for nth in range(ROUNDS):
                    told = await asyncio.gather(
                        *(self.client(f"{nth}.{at}", upstream, server) for at in range(AT_ONCE)),
                        return_exceptions=True,
                    )
                    self.wrong += [each for each in told if each is not None]
                    if self.wrong:
                        break
            finally:
                loop.remove_reader(server.fileno())
        upstream.close()
        engine.close()
        for _ in range(50):
            await asyncio.sleep(0)


def sockets() -> int:
    """Open ones. What a loop opens for itself once is no socket."""
    files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.readlink(file).startswith("socket:") for file in files if os.path.lexists(file))


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_storm(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    before = sockets()
    storm = Storm(random.Random(SEED))
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(storm.run(), 60))
    assert storm.seen >= {"laned", "unlaned", "paused", "whole", "told", "cancelled"}
    for each in storm.wrong:
        if isinstance(each, BaseException):
            raise each
    assert not storm.wrong, storm.wrong[:3]
    assert not unraisable, [(each.exc_value, each.object) for each in unraisable[:3]]
    assert sockets() <= before
