"""The engine's connections: one for each exchange, kept alive between exchanges.

Why not a client library: an event costs 18 µs through this one, 55 through httpx, 10 for bytes alone through aiohttp
but 209 for each whole request (docs/performance.md). The reader is told synchronously, from the socket's own
callback: an event goes out to the client in the same turn of the loop in which it came in, with no task woken.

Not decided here: what is retried (``flow``), what the bytes mean (``reply``).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from headgate.errand import as_task
from headgate.names import Host
from headgate.relay.express import Lanes

if TYPE_CHECKING:
    from headgate.relay._express import Lane

Headers = list[tuple[bytes, bytes]]

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Who is told what comes back. Exactly one of ``on_end`` and ``on_broken`` is called, once, and last.

    Where one of them raises, ``on_failed`` follows: an exception in a socket's callback ends the connection and
    nothing else, and the request would wait for an end that never comes.
    """

    def on_head(self, status: int, headers: Headers) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_broken(self, why: str, *, answered: bool) -> None:
        """The exchange failed. ``answered``: at least one byte of an answer had come."""
        ...

    def on_failed(self, error: Exception) -> None: ...


class Unreachable(Exception):
    """No connection to the engine could be opened."""


NEVER = b"\n"
"""No event begins with an empty line, and no chunk."""


def _frame(size: int) -> bytes:
    """What a chunk begins with if it takes ``size`` bytes, all in all: the length of its data, in hexadecimal."""
    for digits in (1, 2, 3):
        data = size - digits - 4
        if data > 0 and len(frame := b"%x\r\n" % data) == digits + 2:
            return frame
    return NEVER


FRAMES = [_frame(size) for size in range(4096)]


class Usual:
    """What nearly all events of a stream look like, so that they can be passed on unparsed, framing and all.

    Attributes:
        head, end: what such a chunk begins with after its length, and ends with, its last line ends included.
        client: where such a chunk goes.
        write: takes such a chunk.
        times: when they came, by ``time.monotonic``, those of one read at the same time; whoever set this takes them.
        bunched: whether more than one came in one read.
        lane: which has passed others, where they have one.
    """

    __slots__ = ("bunched", "client", "end", "head", "lane", "times", "write")

    def __init__(self, head: bytes, end: bytes, client: asyncio.Transport) -> None:
        self.head, self.end, self.client = head, end, client
        self.write: Callable[[bytes], None] = client.write
        self.times: list[float] = []
        self.bunched = False
        self.lane: Lane | None = None

    @property
    def count(self) -> int:
        """How many have passed since they were last taken."""
        return len(self.times) if self.lane is None else len(self.times) + self.lane.came

    def take(self) -> tuple[list[float], bool]:
        """When they came since this was last asked, and whether some came in one read."""
        times, self.times = self.times, []
        bunched, self.bunched = self.bunched, False
        if self.lane is not None:
            passed, together = self.lane.take()
            times = sorted(passed + times) if times else passed
            bunched = bunched or together
        return times, bunched

    def several(self, data: bytes) -> int:
        """How many such chunks ``data`` is, and nothing else; 0 where it isn't.

        Their end, with its blank line, can't stand within the text of one, so where it is found a chunk ends.
        """
        head, end = self.head, self.end
        found = at = 0
        while at < len(data):
            stop = data.find(end, at) + len(end)
            size = stop - at
            frame = FRAMES[size] if len(end) <= size < len(FRAMES) else NEVER
            text = at + len(frame)
            if not (data.startswith(frame, at) and data.startswith(head, text)):
                return 0
            if data.find(b"\n", text, stop - 4) >= 0:
                return 0
            at = stop
            found += 1
        return found


class Exchange(asyncio.Protocol):
    """A connection to the engine, and the exchange that is on it, if any."""

    __slots__ = (
        "_answered",
        "_at_chunk",
        "_complete",
        "_head_done",
        "_headers",
        "_keep_alive",
        "_lane",
        "_parser",
        "_parts",
        "_paused",
        "_receiver",
        "_trailing",
        "_unlaned",
        "_upstream",
        "idle_since",
        "reused",
        "transport",
        "usual",
    )

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._receiver: Receiver | None = None
        self._paused = False
        self._lane: Lane | None = None
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.reused = False
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._head_done = False
        self._trailing = False
        self._parts: list[bytes] = []
        self._answered = False
        self._at_chunk = False
        self._unlaned = False
        self.usual: Usual | None = None
        self._complete = False
        self._keep_alive = False

    # What the relay asks for.

    def send(self, request: bytes, receiver: Receiver) -> None:
        """Write a whole request; its answer goes to ``receiver``."""
        assert self.transport is not None
        assert self._receiver is None
        self._receiver = receiver
        self.transport.write(request)

    def abort(self) -> None:
        """End the exchange and the connection at once, so that the engine aborts its work. Safe at any time."""
        self._receiver = None
        self.cut()

    def cut(self) -> None:
        """Close the connection; the exchange that is on it is broken."""
        self._leave_lane()
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        """Stop reading: the engine's socket fills up, and the engine waits."""
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = True
            if self._lane is not None:
                self._lane.pause()
            else:
                self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = False
            if self._lane is None:
                self.transport.resume_reading()
                return
            try:
                self._lane.resume()
            except OSError:  # the kernel had no room for it
                self._lane_over()

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        usual = self.usual
        if usual is not None and self._at_chunk:
            # The hot path, in one frame: one chunk that is one event like the last but for its text.
            size = len(data)
            frame = FRAMES[size] if size < len(FRAMES) else NEVER
            at = len(frame)
            if (
                data.startswith(frame)
                and data.startswith(usual.head, at)
                and data.endswith(usual.end)
                and data.find(b"\n", at, -4) < 0
            ):
                try:
                    usual.write(data)
                    usual.times.append(monotonic())
                    return  # the parser needn't see it: it stands before the next chunk as before
                except RuntimeError:
                    self.usual = None  # the client has gone in this very turn: the careful way knows what to do
            elif (several := usual.several(data)) > 1:
                try:
                    usual.write(data)
                    usual.times += [monotonic()] * several
                    usual.bunched = True
                    return
                except RuntimeError:
                    self.usual = None
        receiver = self._receiver
        if receiver is None:
            # Nothing was asked: an idle connection that speaks is of no use (a 408 before its closing, say).
            self.abort()
            return
        self._answered = True
        try:
            wrong = self._feed(data)
            parts = self._parts
            if parts:  # those before a mistake count, too
                block = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                receiver.on_data(block)
            if self._receiver is None:
                return
            if self._complete:
                self._trailing = self._trailing or wrong is not None
                self._finish()
            elif wrong is not None:
                self._break(f"the engine's answer is not HTTP: {wrong}")
            elif self.usual is not None and self._at_chunk and self._lane is None:
                self._take_lane(self.usual)
        except Exception as error:
            self._fail(receiver, error)

    def _feed(self, data: bytes) -> Exception | None:
        """Have the parser see ``data``; what it finds wrong with it."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._at_chunk = False
            return error
        self._at_chunk = self._at_chunk and data.endswith(b"\r\n")
        return None

    def _take_lane(self, usual: Usual) -> None:
        """From here on a lane reads what comes, where there is one, and events like the last no longer come by here."""
        if self._paused or self._unlaned:
            return
        assert self.transport is not None
        self._lane = self._upstream.lanes.open(self.transport, usual.client, self._by_lane, self._lane_over)
        if self._lane is None:
            self._unlaned = True
            return
        self.transport.pause_reading()
        self._arm()

    def _arm(self) -> None:
        lane, usual = self._lane, self.usual
        if lane is not None and usual is not None and self._at_chunk:
            usual.lane = lane
            lane.arm(usual.head, usual.end)

    def _by_lane(self, data: bytes) -> None:
        self.data_received(data)
        self._arm()

    def _lane_over(self) -> None:
        self._unlaned = True
        self._leave_lane()

    def _leave_lane(self) -> None:
        """The transport reads again."""
        lane, self._lane = self._lane, None
        if lane is None:
            return
        lane.close()
        if self.transport is not None and not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_lane()
        self._upstream.forget(self)
        # It refers to us: without this both would stay in memory until the collector looks.
        self._parser = None  # type: ignore[assignment]
        receiver = self._receiver
        if receiver is None:
            return
        try:
            if not self._answered:
                self._break("the engine closed the connection without an answer")
            elif exc is None and self._until_close():
                self._finish()
            else:
                self._break("the engine closed the connection in the middle of its answer")
        except Exception as error:
            self._fail(receiver, error)

    def _fail(self, receiver: Receiver, error: Exception) -> None:
        log.exception("an answer of the engine's could not be handled")
        self.abort()
        receiver.on_failed(error)

    def _until_close(self) -> bool:
        """Whether the body is one that ends with the connection (neither length nor chunks), and so is whole."""
        return self._head_done and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        )

    def _finish(self) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        self._leave_lane()
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # it answered without reading the whole request, and need never read the rest
        elif self.usable and self._keep_alive and not self._trailing:
            self.resume()
            self._reset()
            self._upstream.give_back(self)
        elif transport is not None:
            transport.close()
        receiver.on_end()

    def _break(self, why: str) -> None:
        receiver, self._receiver = self._receiver, None
        self.cut()
        if receiver is not None:
            receiver.on_broken(why, answered=self._answered)

    # What the parser finds.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # a trailer, or the head of a second answer, is nobody's business
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete:
            self._trailing = True  # a second answer to one request: the connection can't be trusted again
            return
        status = self._parser.get_status_code()
        if not 100 <= status <= 599:
            raise ValueError(f"there is no status {status}")
        if status >= 200 and self._receiver is not None:
            self._head_done = True
            self._receiver.on_head(status, self._headers)

    def on_chunk_header(self) -> None:
        self._at_chunk = False

    def on_chunk_complete(self) -> None:
        self._at_chunk = True

    def on_body(self, body: bytes) -> None:
        if not self._trailing:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._headers = []  # an interim answer (100 Continue); the real one follows
            return
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # asked later, the parser has forgotten


class Upstream:
    """The connections to one engine.

    Args:
        host, port: where it listens.
        tls: whether it is spoken to through TLS.
        idle_s: an idle connection older than this is not used again. Shorter than the engine's own keep-alive, or
            requests are sent into connections that are about to close.
    """

    def __init__(
        self, host: str, port: int, *, tls: bool = False, idle_s: float = 60.0, connect_timeout_s: float = 5.0
    ) -> None:
        self._host = Host(host)
        self.port = port
        self._tls = ssl.create_default_context() if tls else None
        self._idle_s = idle_s
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Exchange, None] = {}
        self._open: set[Exchange] = set()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.lanes = Lanes(self._loop)

    def idle(self) -> Exchange | None:
        """The connection used last, of those that are idle and not too old; None where there is none."""
        oldest = self._loop.time() - self._idle_s
        while self._idle:
            exchange, _ = self._idle.popitem()
            if exchange.usable and exchange.idle_since > oldest:
                exchange.reused = True
                return exchange
            exchange.abort()
        return None

    async def connect(self) -> Exchange:
        """A new connection.

        Raises:
            Unreachable: it could not be opened.
        """
        await as_task()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, exchange = await self._host.connect(lambda: Exchange(self), self.port, self._tls)
        except (OSError, TimeoutError) as error:
            raise Unreachable(str(error) or "connecting took too long") from error
        if self._closed:
            exchange.abort()
            raise Unreachable("the engine is being stopped")
        if not exchange.usable:  # lost before this task ran again: nobody would tell whoever sends on it
            raise Unreachable("the engine closed the connection at once")
        self._open.add(exchange)
        return exchange

    def give_back(self, exchange: Exchange) -> None:
        """An exchange has ended well and its connection can serve again."""
        if self._closed:
            exchange.abort()
            return
        exchange.idle_since = self._loop.time()
        self._idle[exchange] = None

    def forget(self, exchange: Exchange) -> None:
        """A connection is gone."""
        self._open.discard(exchange)
        self._idle.pop(exchange, None)

    def close(self) -> None:
        """Close every connection; exchanges under way are broken."""
        self._closed = True
        for exchange in list(self._open):
            exchange.cut()
        self.lanes.close()

    def __repr__(self) -> str:
        return f"<Upstream {self._host.name}:{self.port} open={len(self._open)} idle={len(self._idle)}>"
