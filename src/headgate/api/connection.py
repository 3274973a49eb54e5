"""The client's connection: uvicorn's httptools protocol, made to notice a client that leaves.

Two things uvicorn does not do, and a gate can't do without:

- With a second request in its buffer uvicorn stops reading until the first is answered, and so sees neither close nor
  reset: a client that pipelines and leaves would keep its slot. Here nothing is read ahead: whatever comes while a
  request is being answered is dropped, and that answer says ``connection: close``, so the client sends it again.
- A lost connection calls ``on_gone`` at once, in the same turn of the loop, instead of waiting to be asked. So does a
  half-closed one: its transport would first wait until everything is read, and a client that reads nothing would
  never be gone.

``Downstream`` writes an answer straight to the transport. It is ASGI's ``send`` without the await: an event from the
engine's socket callback goes out in that callback (docs/decisions/001-own-connections.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from headgate.api import problems
from headgate.errors import Reason, Refusal

BUFFER_BYTES = 256 * 1024
"""What a client may leave unread before the engine's side is paused."""

_ANY = 1 << 62

_SIZES = [b"%x\r\n" % size for size in range(2048)]
"""What stands before a chunk of so many bytes."""

Headers = list[tuple[bytes, bytes]]


class Connection(HttpToolsProtocol):
    """One client's connection. ``on_gone``, ``on_pause`` and ``on_resume`` belong to the request being answered."""

    on_gone: Callable[[], object] | None = None
    on_pause: Callable[[], object] | None = None
    on_resume: Callable[[], object] | None = None
    idle_since = inf
    _deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_gone is not None and self._answering:
            self.on_gone()

    def eof_received(self) -> None:
        if self._answering:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._answering and not self.cycle.more_body:
            self._stop_listening()
            return
        self.idle_since = inf
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._stay_with_http(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("This is not a valid HTTP request.")

    def _stay_with_http(self, rest: bytes) -> None:
        """The client offers another protocol, as Java's does with every request, and is answered in this one.

        The parser takes what follows such a head for the other protocol, and the request for one without a body.
        """
        sized = [pair for pair in self.headers if pair[0] in (b"content-length", b"transfer-encoding")]
        if self._deaf or not sized:
            return
        cycle = self.cycle
        cycle.more_body = True
        cycle.message_event.clear()
        cycle.keep_alive = False  # this parser is good for one body
        self.parser = httptools.HttpRequestParser(_Body(self))
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % pair for pair in sized))
        self.parser.feed_data(rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["headgate.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        if self._answering:
            self._stop_listening()  # two requests in one segment
            return
        super().on_headers_complete()

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn says it is never None; before the first it is
        return cycle is not None and not cycle.response_complete

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.idle_since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for bytes that are no HTTP, in the shape of all refusals."""
        status, headers, body = problems.answer(Refusal(Reason.INVALID_REQUEST, msg))
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%bconnection: close\r\n\r\n%b" % (STATUS_LINE[status], lines, body))
        self.transport.close()

    def _stop_listening(self) -> None:
        self._deaf = True
        self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_pause is not None:
            self.on_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_resume is not None:
            self.on_resume()


def close_idle(connections: Iterable[Any], now: float, keep_alive_s: float) -> None:
    """Close those that were answered ``keep_alive_s`` ago and have asked nothing since; ``now`` by the loop's clock.

    To be called now and then: a timer of its own would cost each request 3 µs.
    """
    for connection in list(connections):
        if now - connection.idle_since > keep_alive_s:
            connection.transport.close()


class _Body:
    """Hears of a request's body only."""

    def __init__(self, connection: Connection) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete


class Downstream:
    """The answer to the request that ``connection`` is on: a head, a body in pieces, an end or a cut.

    Once the client is gone every call does nothing.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_cycle",
        "_head",
        "_loop",
        "_stall_s",
        "_watch",
        "_watched_bytes",
        "on_pause",
        "on_resume",
        "on_stall",
    )

    def __init__(self, connection: Connection, *, stall_s: float) -> None:
        self._connection = connection
        self._cycle = connection.cycle
        self._chunked = False
        self._head = b""
        self._stall_s = stall_s
        self._loop = connection.loop
        self._watch: asyncio.TimerHandle | None = None
        self._watched_bytes = 0
        self.on_pause: Callable[[], object] | None = None
        self.on_resume: Callable[[], object] | None = None
        self.on_stall: Callable[[], object] | None = None
        connection.on_pause = self._paused
        connection.on_resume = self._resumed

    @property
    def started(self) -> bool:
        return self._cycle.response_started

    @property
    def gone(self) -> bool:
        return self._cycle.disconnected

    def start(self, status: int, headers: Headers) -> None:
        """The head, sent with what is written next: each write is a system call.

        Chunked, unless ``headers`` have a ``content-length`` (or the client speaks HTTP/1.0).
        """
        cycle = self._cycle
        if cycle.disconnected or cycle.response_started:
            return
        cycle.response_started = True
        if cycle.waiting_for_100_continue:
            cycle.waiting_for_100_continue = False
            cycle.keep_alive = False  # the body was not asked for: what comes next may be it, or another request
        lines = [STATUS_LINE[status]]
        sized = False
        for name, value in (*cycle.default_headers, *headers):
            sized = sized or name == b"content-length"
            lines += (name, b": ", value, b"\r\n")
        if not sized:
            if cycle.scope["http_version"] == "1.0":
                cycle.keep_alive = False
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    def write(self, data: bytes) -> None:
        cycle = self._cycle
        if not data or cycle.disconnected:
            return
        if self._chunked:
            size = len(data)
            data = b"".join((_SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size, data, b"\r\n"))
        if self._head:
            data, self._head = self._head + data, b""
        cycle.transport.write(data)

    def chunk_writer(self) -> Callable[[bytes], None] | None:
        """What takes chunks as they came from the engine, framing and all."""
        cycle = self._cycle
        return cycle.transport.write if self._chunked and not self._head and not cycle.disconnected else None

    def end(self) -> None:
        cycle = self._cycle
        if cycle.disconnected or cycle.response_complete:
            return
        if self._chunked or self._head:
            cycle.transport.write(self._head + b"0\r\n\r\n" if self._chunked else self._head)
            self._head = b""
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        self._watch_rest()

    def cut(self) -> None:
        """Close the connection with the reply unended; a reset, where only that can tell (HTTP/1.0)."""
        cycle = self._cycle
        cycle.response_complete = True
        if self._chunked:
            cycle.transport.close()
            self._watch_rest()
        else:
            cycle.transport.abort()

    def finish(self) -> None:
        """The request is over: nothing more is told to it."""
        connection = self._connection
        connection.on_gone = connection.on_pause = connection.on_resume = None
        self.on_pause = self.on_resume = self.on_stall = None

    def _paused(self) -> None:
        self._start_watch()
        if self.on_pause is not None:
            self.on_pause()

    def _resumed(self) -> None:
        self._watched_bytes = _ANY  # much was taken, however much has been added since
        if self.on_resume is not None:
            self.on_resume()

    def _watch_rest(self) -> None:
        if self._cycle.transport.get_write_buffer_size():
            self._start_watch()

    def _start_watch(self) -> None:
        if self._watch is None:
            self._watched_bytes = self._cycle.transport.get_write_buffer_size()
            self._watch = self._loop.call_later(self._stall_s, self._look)

    def _look(self) -> None:
        """Drop a reader that has taken nothing since the last look.

        Looked at only while nothing is added (paused, or ended), so that what is left can only have shrunk; the next
        request on the connection has a watch of its own.
        """
        self._watch = None
        cycle = self._cycle
        transport: Any = cycle.transport
        left = transport.get_write_buffer_size()
        waits = cycle.response_complete or self._connection.flow.write_paused
        if not left or not waits or self._connection.cycle is not cycle:
            return
        if left < self._watched_bytes:
            self._start_watch()
            return
        if self.on_stall is not None:
            self.on_stall()
        transport.abort()
