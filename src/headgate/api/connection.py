"""The client's connection: uvicorn's httptools protocol, made to notice a client that leaves.

Three things uvicorn does not do, and a gate can't do without:

- With a second request in its buffer uvicorn stops reading until the first is answered, and so sees neither close nor
  reset: a client that pipelines and leaves would keep its slot. Here nothing is read ahead: whatever comes while a
  request is being answered is dropped, and that answer says ``connection: close``, so the client sends it again.
- A lost connection calls ``on_gone`` at once, in the same turn of the loop, instead of waiting to be asked. So does a
  half-closed one: its transport would first wait until everything is read, and a client that reads nothing would
  never be gone.
- A client that reads nothing defeats every limit on what is kept for it if it may ask for more: while its buffer is
  over the mark its next request is not read, and one that has taken nothing for the guard's ``stall_s`` is dropped,
  whatever it sends.

And what it reads it reads strictly: what two readers could understand in two ways (lengths above all) is refused, and
the connection closed. Most of that is llhttp's doing; ``on_header`` and ``_examine`` add what it lets pass.

Long, since all of it is one connection's state.

``Downstream`` writes an answer straight to the transport. It is ASGI's ``send`` without the await: an event from the
engine's socket callback goes out in that callback (docs/decisions/001-own-connections.md).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from headgate.api import problems
from headgate.api.guard import HEADERS_MAX, Guard
from headgate.api.request import Headers, Request, Road
from headgate.errand import Errand
from headgate.errors import Reason, Refusal

BUFFER_BYTES = 256 * 1024
"""What a client may leave unread before the engine's side is paused, and its next request left where it is."""

_ANY = 1 << 62

_HEEDED = frozenset((b"host", b"expect", b"origin", b"transfer-encoding"))
"""Headers that are looked at as they come."""
FRAMING_MOST_BYTES = 4 * 1024 * 1024


_TRAILERS: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Where what is called a header after the head goes: a proxy that looks at heads has not seen it."""
_HEAD_ENDS = (b"\n\r\n", b"\r\n")
"""What may come of the end of a head that came in pieces, when it is cut in its midst."""

_SIZES = [b"%x\r\n" % size for size in range(2048)]
"""What stands before a chunk of so many bytes."""


class Connection(HttpToolsProtocol):
    """One client's connection. ``on_gone`` and ``sink`` belong to the request being answered.

    Args:
        roads: by path, who answers what is POSTed there; everything else is answered by the ASGI application.

    Attributes:
        broken: why the body of the request being answered will never be whole.
    """

    # Wider than uvicorn says, which a compiled module would hold us to. Before the first request there is no cycle, and
    # of those that take a road it is a ``Request``, which has the names that are asked of one.
    cycle: Any
    scope: Any
    headers: Any
    on_gone: Callable[[], object] | None = None
    sink: Downstream | None = None
    idle_since = inf
    broken: Refusal | None = None
    _watch: asyncio.TimerHandle | None = None
    _watched_bytes = 0
    _deaf = False
    _head_bytes = 0  # of a head that came in pieces, so far
    _hosts = 0
    _wrong: Refusal | None = None
    _origin: bytes | None = None
    _chunked = False
    _framing_bytes = 0
    _held: bytearray | None = None
    _held_bytes = 0
    _late_at = 0.0
    _late_for: object = None

    def __init__(
        self, *args: Any, guard: Guard | None = None, roads: Mapping[str, Road] | None = None, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._guard = guard or Guard()
        self._roads = roads or {}
        self._head_most = self._guard.head_bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        if len(self.connections) > self._guard.connections:
            # Spread, since nobody knows when one of the others leaves.
            wait_s = random.uniform(1.0, 5.0)  # noqa: S311  chance, not a secret
            what = "There are as many connections to this gateway as it takes (MAX_CONNECTIONS)."
            self._turn_away(Refusal(Reason.TOO_MANY_CONNECTIONS, what, retry_after_s=wait_s))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._watch is not None:
            self._watch.cancel()  # it refers to us
            self._watch = None
        if not self._answering:
            self.forget()
        elif self.on_gone is not None:
            self.on_gone()

    def forget(self) -> None:
        """Let go of the last request, for the connection is lost and the request over.

        The connection, its request and that one's scope refer to one another. All of it would stay in memory until the
        collector looks, thousands of them after a storm, and memory would be as high as it was then from there on.
        """
        self.cycle = None
        self.scope = None

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
        if len(data) + self._head_bytes > self._head_most and self._head_is_too_long(data):
            return
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                self._stay_with_http(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("This is not a valid HTTP request.")
            return
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            self._head_bytes += len(data)
        elif cycle.more_body and self._chunked:
            self._weigh(len(data))

    def _weigh(self, size: int) -> None:
        """Bound what a chunked body brings beside its data: extensions and trailers may go on for ever."""
        body = self.cycle.body
        held = self._held_bytes if body is self._held else 0
        self._framing_bytes += size - (len(body) - held)
        self._held, self._held_bytes = body, len(body)
        if self._framing_bytes > FRAMING_MOST_BYTES:
            self._turn_away(
                Refusal(Reason.TOO_LARGE, "The body has far more framing than data, or was refused already.")
            )

    def _head_is_too_long(self, data: bytes) -> bool:
        """Whether the head, which ``data`` begins or goes on with, doesn't end within its limit; then it is refused."""
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and cycle.more_body:
            return False  # it is a body that goes on
        end = data.find(b"\r\n\r\n", 0, max(self._head_most - self._head_bytes, 0))
        if end >= 0 or (self._head_bytes and self._head_bytes <= self._head_most and data[:3] in _HEAD_ENDS):
            return False
        self._turn_away(Refusal(Reason.HEAD_TOO_LARGE, f"The request's head is longer than {self._head_most} bytes."))
        return True

    def _stay_with_http(self, rest: bytes) -> None:
        """The client offers another protocol, as Java's does with every request, and is answered in this one.

        The parser takes what follows such a head for the other protocol, and the request for one without a body.
        """
        if self._deaf:
            return
        cycle = self.cycle
        sized = [pair for pair in cycle.scope["headers"] if pair[0] in (b"content-length", b"transfer-encoding")]
        if not sized:
            return
        cycle.more_body = True
        cycle.message_event.clear()
        cycle.keep_alive = False  # this parser is good for one body
        self.parser = httptools.HttpRequestParser(_Body(self))
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % pair for pair in sized))
        self.parser.feed_data(rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["headgate.connection"] = self
        self._hosts = 0
        if self._watch is not None and not self.transport.get_write_buffer_size():
            self._watched_bytes = _ANY  # all of the last answer was taken before this request was sent

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in _HEEDED:
            if name == b"host":
                self._hosts += 1
            else:
                self._heed(name, value)

    def _heed(self, name: bytes, value: bytes) -> None:
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            return  # a trailer
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
            return
        if name == b"origin":
            self._origin = value
            return
        self._chunked = True
        self._framing_bytes = 0
        if value.strip().lower() != b"chunked" or self.parser.get_http_version() == "1.0":
            # llhttp takes what ends in "chunked", and would give the body as it came: still in another coding.
            self._wrong = Refusal(Reason.INVALID_REQUEST, "`transfer-encoding` must be chunked alone, with HTTP/1.1.")

    def _examine(self, origin: bytes | None) -> bool:
        """Whether a head that is out of the ordinary will do; it is refused where it won't."""
        wrong, self._wrong = self._wrong, None
        try:
            if wrong is not None:
                raise wrong
            if self._hosts != 1 and (self._hosts or self.parser.get_http_version() != "1.0"):
                raise Refusal(Reason.INVALID_REQUEST, "A request must have one `host` header.")
            if len(self.headers) > HEADERS_MAX:
                raise Refusal(Reason.HEAD_TOO_LARGE, f"The request has more than {HEADERS_MAX} headers.")
            if origin is not None:
                self._guard.check_origin(self.parser.get_method(), self.headers)
        except Refusal as refusal:
            self._turn_away(refusal)
            return False
        return True

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        if self._answering:
            self._stop_listening()  # two requests in one segment
            return
        origin, self._origin = self._origin, None
        if (
            self._hosts != 1 or origin is not None or self._wrong is not None or len(self.headers) > HEADERS_MAX
        ) and not self._examine(origin):
            return
        if not self._takes_a_road():
            super().on_headers_complete()
        self.headers = _TRAILERS  # it is appended to, and no more
        self._head_bytes = 0
        if origin is not None:
            self.cycle.default_headers = [*self.cycle.default_headers, *self._guard.cross_origin(origin)]
        if getattr(self.server_state, "ending", False):
            self.cycle.keep_alive = False

    def _takes_a_road(self) -> bool:
        """Have the request whose head is complete answered, where it has a road; else it goes uvicorn's way."""
        parser = self.parser
        if parser.get_method() != b"POST":
            return False
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        road = self._roads.get(unquote(path) if "%" in path else path)
        if road is None:
            return False
        version = parser.get_http_version()
        self.scope["http_version"] = version
        request = Request(self, url.query or b"", keep_alive=version != "1.0" and parser.should_keep_alive())
        self.cycle = request
        errand = Errand(road(self, request), self.loop, self.tasks.discard)
        self.tasks.add(errand)  # type: ignore[arg-type]  # all that uvicorn does with them is to cancel them
        request.cancel = errand.cancel
        return True

    @property
    def _answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._watch is None and self.transport.get_write_buffer_size():
            self._start_watch()
        if not self.transport.is_closing():
            if self.flow.write_paused:
                self.flow.pause_reading()
            else:
                self.flow.resume_reading()
            self.idle_since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf:
            cycle = self.cycle
            cycle.more_body = False  # uvicorn leaves it where the answer has been sent by now
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for bytes that are no HTTP, in the shape of all refusals."""
        self._turn_away(Refusal(Reason.INVALID_REQUEST, msg))

    def _turn_away(self, refusal: Refusal) -> None:
        """Refuse what is no request, or will never be a whole one; nothing more is read."""
        if self._deaf:
            return
        self._deaf = True
        cycle = self.cycle
        if cycle is not None and (cycle.more_body or not cycle.response_complete):
            self._break_body(refusal)
            return
        self._guard.refused(refusal)
        status, headers, body = problems.answer(refusal)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%bconnection: close\r\n\r\n%b" % (STATUS_LINE[status], lines, body))
        self.transport.close()
        self.watch_rest()

    def _break_body(self, refusal: Refusal) -> None:
        """The body of the request being answered will never be whole: whoever waits for it is told.

        Its answer may have been sent by now, or be on its way: a second one would be read as that to the next request.
        Where it is whole, it is answered; what came behind it was nothing.
        """
        cycle = self.cycle
        cycle.keep_alive = False
        if cycle.response_complete:
            self.transport.close()
        elif not cycle.more_body:
            return
        elif cycle.response_started:
            self.transport.abort()
        else:
            self.broken = refusal
            cycle.message_event.set()

    def look(self, now: float) -> None:
        """End a request that has taken too long to arrive, or a connection that has idled too long.

        Called every so often, with the loop's time: a timer of its own would cost each request 3 µs.
        """
        if now - self.idle_since > self._guard.keep_alive_s:
            self.transport.close()
            return
        cycle = self.cycle
        if self._deaf:
            late_for: object = None
        elif cycle is None or cycle.scope is not self.scope:
            begun: object = self.scope  # uvicorn says it is never None, as of the cycle
            late_for = self if begun is None else begun
        elif cycle.more_body:
            late_for = cycle
        elif cycle.response_complete and self.idle_since == inf:
            late_for = self  # bytes came that begin nothing
        else:
            late_for = None
        in_body = late_for is cycle
        limit_s = self._guard.body_timeout_s if in_body else self._guard.head_timeout_s
        if late_for is not self._late_for:
            self._late_for, self._late_at = late_for, now + limit_s
        elif late_for is not None and now >= self._late_at and not self.transport.is_closing():
            if late_for is self:
                self.transport.close()  # it has asked for nothing; an answer would be that to its first request
                return
            what = "body" if in_body else "head"
            why = f"The request's {what} did not arrive within {limit_s:g} s."
            self._turn_away(Refusal(Reason.REQUEST_INCOMPLETE, why))

    def _stop_listening(self) -> None:
        self._deaf = True
        self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._watch is None:
            self._start_watch()
        else:
            self._watched_bytes = _ANY  # it has been added to since
        if not self._answering and not self.transport.is_closing():
            self.flow.pause_reading()  # an answer's last bytes may be counted after its end
        if self.sink is not None and self.sink.on_pause is not None:
            self.sink.on_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watched_bytes = _ANY  # much was taken, however much has been added since
        if not self._answering and not self.transport.is_closing():
            self.flow.resume_reading()  # its next request, left where it was
        if self.sink is not None and self.sink.on_resume is not None:
            self.sink.on_resume()

    def watch_rest(self) -> None:
        """Nothing is added for now: what is left has to become less."""
        if self._watch is None and self.transport.get_write_buffer_size():
            self._start_watch()

    def _start_watch(self) -> None:
        self._watched_bytes = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(self._guard.stall_s, self._look_at_rest)

    def _look_at_rest(self) -> None:
        """Drop a reader that has taken nothing since the last look.

        Looked at only while nothing is added (paused, or answered), so that what is left can only have shrunk. What
        was added to it between two looks was an answer to a request sent while it had the last one still to read:
        who reads its answers doesn't do that.
        """
        self._watch = None
        left = self.transport.get_write_buffer_size()
        if not left or (self._answering and not self.flow.write_paused):
            return
        if left < self._watched_bytes:
            self._start_watch()
        else:
            self.transport.abort()


def close_after_answers(state: Any) -> None:
    """From now on every answer says ``connection: close``, and its connection is closed after it.

    So whoever keeps connections, a balancer above all, is told before the listener goes; an idle connection is told
    with its next answer and not closed under a request that is on its way. ``state`` is uvicorn's, which all its
    connections share.
    """
    state.ending = True
    for connection in list(state.connections):
        if connection.cycle is not None and not connection.cycle.response_complete:
            connection.cycle.keep_alive = False


def cancel_arriving(state: Any) -> None:
    """End the requests whose bodies are still on their way; nobody else knows of them."""
    for connection in list(state.connections):
        request = connection.cycle
        if isinstance(request, Request) and request.more_body:
            request.cancel()


class _Body:
    """Hears of a request's body only."""

    def __init__(self, connection: Connection) -> None:
        self.on_body = connection.on_body
        self._connection = connection

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()
        self._connection._stop_listening()  # or a second request's body would be added to this one's


class Downstream:
    """The answer to the request that ``connection`` is on: a head, a body in pieces, an end or a cut.

    Once the client is gone every call does nothing.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_cycle",
        "_head",
        "on_pause",
        "on_resume",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cycle: RequestResponseCycle = connection.cycle
        self._chunked = False
        self._head = b""
        self.on_pause: Callable[[], object] | None = None
        self.on_resume: Callable[[], object] | None = None
        connection.sink = self

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

    def takes_chunks(self) -> asyncio.Transport | None:
        """What takes chunks as they came from the engine, framing and all."""
        cycle = self._cycle
        return cycle.transport if self._chunked and not self._head and not cycle.disconnected else None

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
        self._connection.on_response_complete()

    def cut(self) -> None:
        """Close the connection with the reply unended; a reset, where only that can tell (HTTP/1.0)."""
        cycle = self._cycle
        cycle.response_complete = True
        if self._chunked:
            cycle.transport.close()
            self._connection.watch_rest()
        else:
            cycle.transport.abort()

    def finish(self) -> None:
        """The request is over: nothing more is told to it, nor to its client."""
        connection, cycle = self._connection, self._cycle
        connection.on_gone = connection.sink = self.on_pause = self.on_resume = None
        if cycle.disconnected:
            connection.forget()
        elif not cycle.response_complete:
            cycle.transport.close()  # by a mistake of ours nobody will answer it: it must not wait for ever
