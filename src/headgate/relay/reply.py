"""One answer, from the engine's bytes to the client's, and how it ended.

It holds the slot until the engine's body is closed: the lease goes back in the same turn in which the last byte (or
the break) is seen, exactly once, whatever the client is still reading. Everything here runs in the socket callbacks
of ``upstream``; the request's own task only waits for ``carry`` to end.

Three states: nothing sent (a failure can still become another try, or a real HTTP status), the head sent alone
(``hold``: proxies were getting impatient), and committed (an engine's byte went out: nothing is retried any more, and
what goes wrong is told inside the stream).

Long, since it is one state machine whose transitions share their ends; each half of it would need the other's state.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from headgate import openai
from headgate.errors import Reason, Refusal
from headgate.openai import Dialect
from headgate.relay import sse, usage
from headgate.relay.upstream import Exchange, Headers, Usual

WHOLE_BYTES = 256 * 1024
"""A whole reply up to this size is kept to be added to; a longer one passes through as it comes."""

_NOT_PASSED = frozenset(
    (
        *(
            b"connection",
            b"keep-alive",
            b"transfer-encoding",
            b"upgrade",
            b"te",
            b"trailer",
            b"proxy-authenticate",
        ),
        *(b"content-length", b"date", b"server", b"x-request-id", b"request-id"),  # ours instead
        *(
            f"x-ratelimit-{what}-{of}".encode()
            for what in ("limit", "remaining", "reset")
            for of in ("requests", "tokens")
        ),
        *(b"x-headgate-engine", b"x-headgate-queue-ms", b"x-headgate-reason"),  # of a gateway behind this one
        # Which pages may read an answer is for CORS_ORIGINS to say, and browsers refuse what is said twice.
        *(
            f"access-control-{what}".encode()
            for what in (
                *("allow-origin", "allow-credentials", "expose-headers"),
                *("allow-methods", "allow-headers", "max-age"),
            )
        ),
    )
)
_SSE_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_TERMINAL: dict[Dialect, tuple[bytes, ...]] = {
    Dialect.RESPONSES: (
        b"event: response.completed",
        b"event: response.incomplete",
        b"event: response.failed",
    ),
    Dialect.ANTHROPIC: (b"event: message_stop",),
}
"""The events that end a stream; of OpenAI's it is [DONE]."""
_TELLS_OUTCOME: dict[Dialect, tuple[bytes, ...]] = {
    Dialect.OPENAI: (b"",),
    Dialect.RESPONSES: _TERMINAL[Dialect.RESPONSES],
    Dialect.ANTHROPIC: (b"event: message_delta",),  # there may be several, and the last one counts
}
"""The events that say how an answer ended."""
_OPENING = (b"event: response.created", b"event: response.queued", b"event: response.in_progress")
"""vLLM sends these before it begins to compute. They are kept back, as the status line is, until something of the
answer follows: what goes wrong before that can still become another try, or have its own status."""
_TOKENS = re.compile(rb"event: (?:content_block_delta|response\.[\w.]+\.delta)\b")
"""The named events that bring some of an answer: the time to any other is nobody's time to a first token."""


_SPECIAL = (b'"usage"', b'"error"', b'"abort"', b"[DONE]")


class FinalEvent(Enum):
    """Where the last event's figures go: see ``FINAL_EVENT`` in docs/configuration.md."""

    AUTO = "auto"
    DATA = "data"
    COMMENT = "comment"
    OFF = "off"


class Sink(Protocol):
    """The client's side. None of these waits; what the client hasn't taken is buffered, and the reply is paused.

    Attributes:
        on_pause, on_resume: called when the client takes too little, and when it has caught up.
    """

    on_pause: Callable[[], object] | None
    on_resume: Callable[[], object] | None

    def start(self, status: int, headers: Headers) -> None: ...
    def write(self, data: bytes) -> None: ...
    def takes_chunks(self) -> asyncio.Transport | None:
        """What takes chunks with their framing from now on; None where the client isn't sent chunks."""
        ...

    def end(self) -> None: ...
    def cut(self) -> None:
        """Close without the end that HTTP would have, so that the client sees a broken reply."""
        ...


class Slot(Protocol):
    """What is given back when the engine's body is closed."""

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of the engine's: status, headers to pass on, body."""

    status: int
    headers: Headers
    body: bytes


class EngineBroke(Exception):
    """The engine failed, and nothing of its answer has reached the client: it may be asked elsewhere.

    Attributes:
        answer: what it said, where it said something: a 500 can be this request's fault or the engine's last words.
    """

    def __init__(self, why: str, answer: Answer | None = None) -> None:
        super().__init__(why)
        self.answer = answer


class StaleConnection(Exception):
    """A kept-alive connection was closed by the engine before it took the request; the slot is still held."""


class PutBack(Exception):
    """Its slot was taken away for somebody more urgent, and nothing of an answer has reached the client."""


class Plan(msgspec.Struct, frozen=True):
    """What the client asked for, as far as the way back depends on it."""

    dialect: Dialect
    streamed: bool
    wants_usage: bool
    final_event: FinalEvent = FinalEvent.AUTO
    as_generate: bool = False


class Ending(msgspec.Struct, frozen=True):
    """How a reply ended. ``reason`` is ``ok``, ``client_left`` or a ``Reason``; ``status`` what the client saw."""

    status: int
    reason: str
    detail: str | None = None


class Reply:
    """Carries one request's answer.

    Args:
        sink: the client.
        plan: what it asked for.
        clock: seconds, monotonic.
        arrived: when the request arrived, by ``clock``.
        headers: sent with every head (request id, engine, …); a list, read when the head goes out.
        first: told the seconds from arrival to a stream's first event.
        gap: told the seconds between two events of a stream.
        trouble: told that the engine failed, before the slot goes back: nobody shall be granted a dying engine.
        retry_after_s: asked when an engine's own 429 or 503 goes out without a ``retry-after``.

    Attributes:
        pieces: how its tokens are spread over its events; None: one in each.
    """

    # One is made for each request, and an instance without them has a dictionary that takes 2 µs to fill.
    __slots__ = (
        "__weakref__",
        "_aborted",
        "_arrived",
        "_clock",
        "_closed_well",
        "_done",
        "_engine_headers",
        "_events",
        "_exchange",
        "_expired",
        "_failed",
        "_final_sent",
        "_finder",
        "_first",
        "_kept",
        "_last_event_at",
        "_loop",
        "_passing",
        "_paused",
        "_plan",
        "_retry_after_s",
        "_says",
        "_sink",
        "_slot",
        "_splitter",
        "_status",
        "_trouble",
        "_usual",
        "_whole",
        "_whole_bytes",
        "committed",
        "first_event_at",
        "gap",
        "headers",
        "pieces",
        "queue_s",
        "started",
        "usage",
        "usage_told",
    )

    def __init__(
        self,
        sink: Sink,
        plan: Plan,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        arrived: float,
        headers: Headers,
        first: Callable[[float], None],
        gap: Callable[[float], None],
        trouble: Callable[[], None],
        retry_after_s: Callable[[], float],
    ) -> None:
        self._sink = sink
        self._plan = plan
        self._clock = clock
        self._arrived = arrived
        self.headers = headers
        self._first: Callable[[float], None] | None = first
        self.gap = gap
        self._trouble = trouble
        self._retry_after_s = retry_after_s
        self._loop = loop
        self._exchange: Exchange | None = None
        self._slot: Slot | None = None
        self._done: asyncio.Future[Ending] | None = None
        self._expired: Refusal | None = None
        self._paused = False
        sink.on_pause = self.pause
        sink.on_resume = self.resume
        self.started = False
        self.committed = False
        self.usage = usage.Usage()
        self.usage_told = False
        self._events = 0
        self.pieces: usage.Pieces | None = None
        self.first_event_at: float | None = None
        self._last_event_at = 0.0
        self.queue_s = 0.0
        self._fresh()

    def _fresh(self) -> None:
        self._status = 0
        self._engine_headers: Headers = []
        self._splitter: sse.EventSplitter | None = None
        self._finder: usage.Finder
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._passing = False
        self._aborted = False
        self._closed_well = False
        self._failed: Ending | None = None
        self._final_sent = False
        self._says = False
        self._kept: list[bytes] = []
        self._usual: Usual | None = None

    # What the flow asks for.

    async def carry(self, exchange: Exchange, request: bytes, slot: Slot) -> Ending:
        """Send ``request`` on ``exchange`` and carry the answer to the client; ``slot`` is released at its end.

        Raises:
            EngineBroke: it failed, and nothing of the answer was sent. Can be called again with another exchange.
            StaleConnection: likewise, and ``slot`` was not released.
            Refusal: ``request_timeout``, by ``expire``, before anything was sent.
        """
        if self._expired is not None:  # while there was no exchange
            exchange.abort()
            if not self.started:
                raise self._expired
            return self.tell_late(self._expired)
        if self._done is not None:  # a second try
            self._fresh()
        self._exchange = exchange
        self._slot = slot
        self._done = self._loop.create_future()
        exchange.send(request, self)
        if self._paused:  # while there was no exchange, or by what another try had sent
            exchange.pause()
        try:
            return await self._done
        except asyncio.CancelledError:
            self._abort_exchange()
            if self._done.done() and not self._done.cancelled():
                self._done.exception()  # seen: it came in the same turn as the cancellation
            raise

    def hold(self) -> None:
        """Nothing has come yet and proxies grow impatient: send the head and a comment, now and at each call."""
        self.comment("waiting")

    def comment(self, text: str) -> None:
        """Tell the client of a stream something before its answer begins, in a comment; the head goes out first."""
        if not self.committed and self._splitter_allowed():
            self._start_stream()
            self._sink.write(sse.comment(text))

    @property
    def told_whole(self) -> Ending | None:
        """How it ended, where the answer has gone out to its last event and only the engine's body has no end yet."""
        return (self._failed or Ending(200, "ok")) if self._closed_well else None

    def expire(self, refusal: Refusal) -> None:
        """The request's time is over."""
        if self._done is None or self._done.done():
            self._expired = refusal  # between two tries, say
            return
        self._abort_exchange()
        if self._closed_well:
            self._end_stream()  # the answer was whole; the engine only doesn't end its body
        elif self.started:
            self._settle(self.tell_late(refusal))
        else:
            self._release()
            self._done.set_exception(refusal)

    @property
    def can_be_put_back(self) -> bool:
        """Whether nothing of an answer has gone out, and it hasn't ended."""
        return not self.started and self._done is not None and not self._done.done()

    def put_back(self) -> None:
        """Take its slot away, which can be done: ``carry`` raises ``PutBack``."""
        self._abort_exchange()
        self._break(PutBack())

    def tell_late(self, refusal: Refusal) -> Ending:
        """A refusal after the head has gone: an error event in a stream, a broken end in a whole reply."""
        if self._splitter_allowed() and not self._passing:
            self._sink.write(openai.error_event(refusal, self._plan.dialect))
            self._sink.end()
        else:
            self._sink.cut()
        return Ending(200, refusal.reason, refusal.message)

    def pause(self) -> None:
        """The client takes nothing for now."""
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        self._paused = False
        if self._exchange is not None:
            self._exchange.resume()

    # What the exchange tells.

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._engine_headers = headers
        if status == 200:
            for name, value in headers:
                if name == b"content-type":
                    if value.startswith(b"text/event-stream"):
                        self._splitter = sse.EventSplitter()
                    break

    def on_data(self, data: bytes) -> None:
        splitter = self._splitter
        if splitter is None:
            self._on_whole(data)
            return
        try:
            events = splitter.feed(data)
        except sse.EventTooLarge:
            self._break_off("the engine sent an event without an end")
            return
        self._end_usual()
        if not events:
            return
        special = any(_is_special(event) for event in events)
        now = self._clock()
        if special or not self.committed:
            self._on_special(events, now)
            return
        if not splitter.rest:
            self._learn_usual(events[-1])
        gap = (now - self._last_event_at) / len(events)
        self._last_event_at = now
        self._events += len(events)
        for _ in events:
            self.gap(gap)
        self._sink.write(events[0] if len(events) == 1 else b"".join(events))

    def _learn_usual(self, event: bytes) -> None:
        """What comes before ``choices`` and from ``finish_reason`` on is the same in the events that follow.

        An event that begins and ends so, in one line, has neither usage nor an error nor an end in it: those stand
        outside of ``choices``, or in ``finish_reason``.
        """
        head = event.find(b'"choices":[')
        tail = event.rfind(b'"finish_reason":null')
        if 0 < head < tail:
            client = self._sink.takes_chunks()
            if client is not None and self._exchange is not None:
                self._usual = Usual(event[: head + 11], event[tail:] + b"\r\n", client)
                self._exchange.usual = self._usual

    def count(self) -> None:
        """Take over the times of what has passed the quick way: now and then, and before what has not."""
        usual = self._usual
        if usual is None:
            return
        times, bunched = usual.take()
        last = self._last_event_at
        if bunched:
            times = _apart(times, last)
        for time in times:
            self.gap(time - last)
            last = time
        self._last_event_at = last
        self._events += len(times)

    def _end_usual(self) -> None:
        self.count()
        self._usual = None
        if self._exchange is not None:
            self._exchange.usual = None

    @property
    def events(self) -> int:
        """Events that have passed, usage and ends not counted."""
        return self._events + (self._usual.count if self._usual is not None else 0)

    @property
    def tokens(self) -> int:
        """As many as its events tell of."""
        events = self.events
        return events if self.pieces is None else self.pieces.tokens(events)

    @property
    def mean_gap_s(self) -> float | None:
        """The mean time between two events; None where there were fewer than two. To be asked at the end."""
        if self.first_event_at is None or self._events < 2:
            return None
        return (self._last_event_at - self.first_event_at) / (self._events - 1)

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first event; None while none has come."""
        return None if self.first_event_at is None else self.first_event_at - self._arrived

    def on_end(self) -> None:
        self._end_usual()
        self._exchange = None
        if self._done is None or self._done.done():
            self._release()
        elif self._splitter is None:
            self._end_whole()
        elif self._closed_well:
            self._release()
            self._end_stream()
        else:
            self._break_off("the engine ended its stream before its answer was complete")

    def on_broken(self, why: str, *, answered: bool) -> None:
        self._end_usual()
        exchange, self._exchange = self._exchange, None
        if self._done is None or self._done.done():
            self._release()
        elif self._closed_well:
            self._release()
            self._end_stream()  # the answer was whole; only the connection's end was missing
        elif not answered and exchange is not None and exchange.reused:
            self._done.set_exception(StaleConnection())
        else:
            self._break_off(why)

    def on_failed(self, error: Exception) -> None:
        self._abort_exchange()
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    # Streams.

    def _on_special(self, events: list[bytes], now: float) -> None:
        """The careful way: first events, usage, errors, ends, comments, named events."""
        dialect = self._plan.dialect
        out: list[bytes] = []
        for event in events:
            told = sse.payload(event)
            if not told:
                out.append(event)
                continue
            if not self._says:
                if event.startswith(_OPENING):
                    self._kept.append(event)
                    continue
                self._says = True
                out += self._kept
            if told == b"[DONE]":
                self._closed_well = True
                self._final_comment(out, now)
                out.append(event)
                continue
            error = None
            if event.startswith(b"event: error"):
                error = usage.error_status(told) or 500
            elif b'"error"' in told:
                error = usage.error_status(told)
            if error is not None:
                if not self.committed:
                    self._answer_with_error(error, event, told)
                    return
                out.append(event)
                if dialect is Dialect.OPENAI:
                    out.append(openai.DONE)
                self._trouble()
                self._abort_exchange()
                self._flush(out)
                self._sink.end()
                self._settle(Ending(200, Reason.ENGINE_FAILED, "the engine reported an error in its stream"))
                return
            if event.startswith(_TELLS_OUTCOME[dialect]):
                self._aborted = openai.was_aborted(told, dialect)
            if self._aborted and (dialect is Dialect.OPENAI or event.startswith(_TERMINAL[dialect])):
                self._flush(out)
                self._break_off("the engine aborted the request")
                return
            if dialect is Dialect.OPENAI:
                event = self._with_usage(event, told, now)
            else:
                if b'"usage"' in told and usage.read(told, self.usage):
                    self.usage_told = True
                if _TOKENS.match(event) is not None:
                    self._mark_event(now)
            if event:
                out.append(event)
            if dialect is not Dialect.OPENAI and event.startswith(_TERMINAL[dialect]):
                self._closed_well = True
                if self.first_event_at is None:
                    self._mark_event(now)  # an answer without a token: it began when it ended
                if event.startswith(b"event: response.failed"):
                    self._failed = Ending(200, Reason.ENGINE_FAILED, "the engine reported a failed response")
        self._flush(out)

    def _flush(self, out: list[bytes]) -> None:
        if not out:
            return
        if self._says:
            self._start_stream()
            self.committed = True
            self._tell_first()
        elif not self.started:
            return  # comments alone don't commit: an error may still come and deserve its own status
        self._sink.write(b"".join(out))

    def _tell_first(self) -> None:
        """Once, and of an event that has gone out: one that an error came right behind is no answer's first."""
        if self._first is not None and self.first_event_at is not None:
            first, self._first = self._first, None
            first(self.first_event_at - self._arrived)

    def _mark_event(self, now: float) -> None:
        if self.first_event_at is None:
            self.first_event_at = now
        else:
            self.gap(now - self._last_event_at)
        self._last_event_at = now
        self._events += 1

    def _with_usage(self, event: bytes, told: bytes, now: float) -> bytes:
        """The event as the client shall see it; empty where it shall not."""
        plan = self._plan
        if b'"usage"' not in told:
            self._mark_event(now)
            return event
        if usage.read(told, self.usage):
            self.usage_told = True
        if not usage.has_no_choices(told):
            self._mark_event(now)
            return event if plan.wants_usage else usage.without_usage(event)
        if plan.final_event is FinalEvent.DATA or (plan.wants_usage and plan.final_event is FinalEvent.AUTO):
            self._final_sent = True
            return b"data: " + usage.with_headgate(told, self.facts(now)) + b"\n\n"
        return event if plan.wants_usage else b""

    def _final_comment(self, out: list[bytes], now: float) -> None:
        # Also for `data`, where the engine gave no usage chunk to put it in.
        if self._plan.final_event is not FinalEvent.OFF and not self._final_sent:
            self._final_sent = True
            out.append(b": headgate " + msgspec.json.encode(self.facts(now)) + b"\n\n")

    def _start_stream(self) -> None:
        if not self.started:
            self.started = True
            self._sink.start(200, [*_SSE_HEADERS, *self.headers])

    def _end_stream(self) -> None:
        if self._plan.dialect is not Dialect.OPENAI:
            out: list[bytes] = []
            self._final_comment(out, self._clock())
            if out:
                self._sink.write(out[0])
        self._sink.end()
        self._settle(self._failed or Ending(200, "ok"))

    def _splitter_allowed(self) -> bool:
        return self._plan.streamed and not self._passing

    # Whole replies.

    def _on_whole(self, data: bytes) -> None:
        if self.first_event_at is None:
            self.first_event_at = self._clock()
        if not self._passing:
            self._whole.append(data)
            self._whole_bytes += len(data)
            if self._whole_bytes <= WHOLE_BYTES or self._plan.as_generate:
                return
            if self.started:
                self._break_off("the engine sent no stream where one was asked for")
                return
            self._passing = self.committed = self.started = True
            data = b"".join(self._whole)
            self._finder = usage.Finder(self.usage)
            self._sink.start(self._status, [*self._passed_headers(), *self.headers])
        self._finder.feed(data)
        self._sink.write(data)

    def _end_whole(self) -> None:
        if self._status in _TROUBLE:
            self._trouble()
        self._release()
        if self._passing:
            self.usage_told = self._finder.told
            self._sink.end()
            self._settle(self._ending(self._status))
            return
        body = b"".join(self._whole)
        if self._status == 200 and openai.was_aborted(body, self._plan.dialect):
            self._break_off("the engine aborted the request")
            return
        headers = self._passed_headers()
        if self._status == 200 and body[:1] == b"{":
            self.usage_told = usage.read(body, self.usage)
            if self._plan.as_generate:
                try:
                    body = openai.completion_to_generate(body, self.facts(self._clock()))
                except openai.UNREADABLE:
                    self._break_off("the engine's answer is not a completion")
                    return
            elif self._plan.final_event is not FinalEvent.OFF:
                body = usage.with_headgate(body, self.facts(self._clock()))
        self._answer(self._status, headers, body)

    def _answer_with_error(self, status: int, event: bytes, body: bytes) -> None:
        """The engine said 200 and then an error as its first event: the client gets the error's own status."""
        if status in _TROUBLE:
            self._trouble()
        self._abort_exchange()
        if self.started:
            self._sink.write(event + (openai.DONE if self._plan.dialect is Dialect.OPENAI else b""))
            self._sink.end()
            self._settle(Ending(200, self._ending(status).reason, "the engine refused"))
            return
        if self._plan.dialect is Dialect.RESPONSES:
            body = openai.unflattened(body)
        self._answer(status, [(b"content-type", b"application/json")], body)

    def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        if status in _TROUBLE:
            self._break(EngineBroke(f"the engine answered {status}", Answer(status, headers, body)))
            return
        if status != 200 and (what := _not_for_the_client(status)) is not None:
            self._break(Refusal(Reason.ENGINE_FAILED, f"The engine answered {status}{what}."))
            return
        self._settle(self.pass_on(Answer(status, headers, body)))

    def pass_on(self, answer: Answer) -> Ending:
        """Send a whole answer to the client."""
        status, headers, body = answer.status, answer.headers, answer.body
        if self.started:  # held: the head said 200 and a stream, so what came instead is told inside it
            why = openai.error_message(body) or f"The engine answered {status} instead of a stream."
            reason = Reason(self._ending(status).reason) if status >= 400 else Reason.ENGINE_FAILED
            return self.tell_late(Refusal(reason, why))
        ending = self._ending(status)
        if status >= 400:
            headers.append((b"x-headgate-reason", ending.reason.encode()))
        if status in (429, 503) and not any(name == b"retry-after" for name, _ in headers):
            wait_s = min(max(self._retry_after_s(), 0.001), 60.0)
            headers.append((b"retry-after", b"%d" % math.ceil(wait_s)))
            headers.append((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1e3)))
        self.started = self.committed = True
        headers.append((b"content-length", b"%d" % len(body)))
        self._sink.start(status, [*headers, *self.headers])
        self._sink.write(body)
        self._sink.end()
        return ending

    def _passed_headers(self) -> Headers:
        length = b"content-length" if self._passing else b""
        passed = [pair for pair in self._engine_headers if pair[0] not in _NOT_PASSED or pair[0] == length]
        types = [pair for pair in passed if pair[0] == b"content-type"]
        if len(types) > 1:  # an answer has one type, whatever a broken engine says
            passed = [types[0], *(pair for pair in passed if pair[0] != b"content-type")]
        return passed

    def _ending(self, status: int) -> Ending:
        """An engine's own status as an ending: its refusals keep their meaning, in our reasons."""
        if status < 400:
            return Ending(status, "ok")
        reason = _STATUS_REASONS.get(status)
        if reason is None:
            reason = Reason.INVALID_REQUEST if status < 500 else Reason.ENGINE_FAILED
        return Ending(status, reason, f"the engine answered {status}")

    # Ends.

    def facts(self, now: float) -> dict[str, object]:
        """The figures of the last event; times in milliseconds, from the request's arrival."""
        latency_s = now - self._arrived
        working_s = latency_s - self.queue_s
        told = self.usage
        completion = told.completion_tokens if self.usage_told else self.tokens
        first = self.first_event_at
        facts: dict[str, object] = {
            "prompt_tokens": told.prompt_tokens,
            "completion_tokens": completion,
            "queue_ms": round(self.queue_s * 1e3, 1),
            "ttft_ms": round((first - self._arrived) * 1e3, 1) if first is not None else None,
            "latency_ms": round(latency_s * 1e3, 1),
            "tokens_per_second": round(completion / working_s, 1) if working_s > 0 else 0.0,
        }
        if not self.usage_told:
            facts["estimated"] = True
        return facts

    def _break_off(self, why: str) -> None:
        self._trouble()
        self._abort_exchange()
        if not self.committed:
            self._break(EngineBroke(why))
            return
        self._settle(self.tell_late(Refusal(Reason.ENGINE_FAILED, f"The answer was cut short: {why}.")))

    def _break(self, broke: EngineBroke | PutBack | Refusal) -> None:
        """Nothing of the answer was sent: nor is anything of it in the books, or in those of the next try."""
        assert self._done is not None
        self.first_event_at = None
        self._events = 0
        self.usage = usage.Usage()
        self.usage_told = False
        self._done.set_exception(broke)

    def _abort_exchange(self) -> None:
        self._end_usual()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()
        self._release()

    def _release(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _settle(self, ending: Ending) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(ending)


_TROUBLE = frozenset((500, 502))
_STATUS_REASONS: dict[int, Reason] = {
    401: Reason.ENGINE_FAILED,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    413: Reason.TOO_LARGE,
    415: Reason.UNSUPPORTED_MEDIA_TYPE,
    429: Reason.SLOTS_BUSY,
    503: Reason.ENGINE_UNAVAILABLE,
}


def _not_for_the_client(status: int) -> str | None:
    """What an engine's answer means that is the gateway's affair; None where it is for the client."""
    if 300 <= status < 400:  # its `location` would lead clients past the gate
        return ", which sends requests elsewhere: its address is another one"
    if status == 401:  # a client's own key was right, and never went there
        return ": it wants another key than the gateway gives it (ENGINE_API_KEY)"
    return None


def _apart(times: list[float], last: float) -> list[float]:
    """Times of which those that are the same share the time since the one before; ``last`` came before the first."""
    apart: list[float] = []
    for time, together in Counter(times).items():
        apart += [last + (time - last) * nth / together for nth in range(1, together + 1)]
        last = time
    return apart


def _is_special(event: bytes) -> bool:
    """Whether an event has to be looked into. ``find``, since bytes' ``in`` raises and drops an exception inside."""
    return not event.startswith(b"data: ") or any(event.find(word) >= 0 for word in _SPECIAL)
