"""The client's side of one connection: sends a request, and checks the answer against what was asked.

A stream is right when it has exactly its events, in order, all of its own request, and then `[DONE]`.
Comments are passed over, as every SSE client passes them over, and so is one closing chunk with no text. A
whole reply is right when it carries the stamp of its request. Whatever else comes is an error of some kind.

It holds no clock of its own schedule: who sends when is `client`'s.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from loadtest.overhead import wire


@dataclass(slots=True)
class Tally:
    """What was seen, times in ns."""

    completed: int = 0
    """Answers that were right to their end."""
    events: int = 0
    """Events that were right, those of streams that went wrong later among them."""
    first_ns: list[int] = field(default_factory=list)
    whole_ns: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)
    """For every event: from the engine's write to its arrival here."""
    errors: Counter[str] = field(default_factory=Counter)


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time; `ended` is called once for every request sent."""

    def __init__(self, tally: Tally, events: int, usage_events: int, ended: Callable[["Connection"], None]) -> None:
        self._tally = tally
        self._want_events = events
        self._want_usage = usage_events
        self._ended = ended
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._stream = False
        self._nonce = -1
        self._error = ""
        self._now_ns = self._sent_ns = 0
        self._rest = b""
        self._body: list[bytes] = []
        self._next = self._usage_seen = 0
        self._done = self._may_close = False

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes, nonce: int, *, stream: bool, late_ns: int = 0) -> None:
        """`late_ns`: how long ago it was due; its times count from then."""
        assert self._transport is not None
        assert self._nonce < 0
        self._stream = stream
        self._nonce = nonce
        self._error = ""
        self._rest = b""
        self._body = []
        self._next = self._usage_seen = 0
        self._done = False
        self._may_close = True
        self._sent_ns = time.monotonic_ns() - late_ns
        self._transport.write(head + body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._nonce >= 0:
            self._end(self._error or "connection_lost")

    def data_received(self, data: bytes) -> None:
        self._now_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("bad_http")
            self.close()

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200 or not self._stream:
            self._body.append(body)
            return
        events = (self._rest + body).split(b"\n\n")
        self._rest = events.pop()
        for event in events:
            self._read_event(event)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(f"status_{status}")
        elif self._stream:
            if self._rest.strip():
                self._fail("cut_event")
            elif self._next != self._want_events:
                self._fail("events_missing")
            elif self._usage_seen != self._want_usage:
                self._fail("usage_missing")
            elif not self._done:
                self._fail("done_missing")
        else:
            body = b"".join(self._body)
            stamp = wire.read_stamp(body)
            if stamp is None or stamp[1] != wire.stamp_tail(self._nonce, 0) or not body.rstrip().endswith(b"}"):
                self._fail("wrong_reply")
        keep_alive = self._parser.should_keep_alive()
        if not keep_alive:
            self.close()
        self._end(self._error)

    def _read_event(self, event: bytes) -> None:
        if event.startswith(b":"):
            event = b"\n".join(line for line in event.split(b"\n") if not line.startswith(b":"))
        stamp = wire.read_stamp(event)
        if stamp is not None and event.startswith(b"data: "):
            if stamp[1] != wire.stamp_tail(self._nonce, self._next) or self._done:
                self._fail("wrong_event")
                return
            if self._next == 0:
                self._tally.first_ns.append(self._now_ns - self._sent_ns)
            self._next += 1
            self._tally.events += 1
            self._tally.late_ns.append(self._now_ns - stamp[0])
        elif event == b"data: [DONE]":
            self._done = True
        elif b'"choices":[]' in event.replace(b" ", b"") and self._want_usage:
            self._usage_seen += 1
        elif self._may_close and b'"finish_reason"' in event and self._next == self._want_events:
            self._may_close = False
        elif event:
            self._fail("unexpected_event")

    def _fail(self, kind: str) -> None:
        self._error = self._error or kind

    def _end(self, error: str) -> None:
        self._nonce = -1
        if error:
            self._tally.errors[error] += 1
        else:
            self._tally.completed += 1
            self._tally.whole_ns.append(self._now_ns - self._sent_ns)
        self._ended(self)
