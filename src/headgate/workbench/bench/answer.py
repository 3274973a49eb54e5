"""One answer as it comes back: timed in the socket's own callback, and checked to its end.

An answer is whole when its stream ended with ``[DONE]``, or its body is JSON with a choice in it. Events without text
(a role, usage, comments) are no tokens. It knows no event loop, so that whatever reads bytes can use it. Ends at
``Seen``: what that means for a run is ``summary``'s.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Any

import msgspec

from headgate.relay import sse
from headgate.relay.upstream import Headers
from headgate.workbench.bench.raw import Outcome

MAX_BODY_BYTES = 16 * 1024 * 1024
_REASON = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk)


@dataclass(slots=True)
class Seen:
    """What came back. Moments are of the monotonic clock, 0 where there was none."""

    outcome: Outcome = Outcome.ERROR
    status: int = 0
    reason: str = ""
    first_at: float = 0.0
    ended_at: float = 0.0
    gaps_ms: array[float] = field(default_factory=lambda: array("d"))
    events: int = 0
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    retry_after_s: float | None = None
    queue_ms: float | None = None
    engine: str = ""
    text: str | None = None
    broken_unanswered: bool = False
    """The connection was closed before a byte of an answer came."""


class Answer:
    """Receives one answer (a ``relay.upstream.Receiver``).

    Args:
        stream: whether a stream was asked for.
        keep: the text is wanted.
        ended: called once, at the end, whatever that is.
    """

    __slots__ = ("_body", "_ended", "_events", "_keep", "_last_at", "_size", "_stream", "_well", "seen")

    def __init__(self, *, stream: bool, keep: bool, ended: Callable[[], None]) -> None:
        self.seen = Seen()
        self._ended: Callable[[], None] | None = ended
        self._stream = stream
        self._keep: list[str] | None = [] if keep else None
        self._events: sse.EventSplitter | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._last_at = 0.0
        self._well = False

    # What the connection tells.

    def on_head(self, status: int, headers: Headers) -> None:
        seen = self.seen
        seen.status = status
        for name, value in headers:
            if name == b"content-type":
                if status == 200 and self._stream and value.startswith(b"text/event-stream"):
                    self._events = sse.EventSplitter()
            elif name == b"x-headgate-reason":
                seen.reason = value.decode("ascii", "replace")
            elif name == b"x-headgate-queue-ms":
                seen.queue_ms = _number(value)
            elif name == b"x-headgate-engine":
                seen.engine = value.decode("ascii", "replace")
        if status in (429, 503):
            seen.retry_after_s = retry_after_s(headers)

    def on_data(self, data: bytes) -> None:
        now = monotonic()
        if self._events is not None:
            for event in self._events.feed(data):
                self._read(event, now)
        else:
            self._size += len(data)
            if self._size > MAX_BODY_BYTES:
                self._fail("too_large")
            else:
                self._body.append(data)

    def on_end(self) -> None:
        seen = self.seen
        if seen.status != 200:
            self._refused()
        elif self._events is not None:
            if self._events.rest.strip():
                self._fail("cut_event")
            elif not self._well:
                self._fail("no_done")
            else:
                self._succeed()
        elif self._stream:
            self._fail("not_a_stream")
        else:
            self._read_whole()
        self._end()

    def on_broken(self, why: str, *, answered: bool) -> None:
        self.seen.broken_unanswered = not answered
        self._fail("cut" if answered else "closed_unanswered")
        self._end()

    def on_failed(self, error: Exception) -> None:
        self._fail(f"client_{type(error).__name__}")
        self._end()

    # What ends it from this side.

    def give_up(self, reason: str, outcome: Outcome = Outcome.ERROR) -> None:
        """It won't be waited for any longer; nothing where it has ended already."""
        if self._ended is None:
            return
        self._fail(reason)
        self.seen.outcome = outcome
        self._end()

    # What it says.

    def _read(self, event: bytes, now: float) -> None:
        data = sse.payload(event)
        if not data:
            return
        if data == b"[DONE]":
            self._well = True
            return
        try:
            chunk = _chunk.decode(data)
        except msgspec.MsgspecError:
            self._fail("bad_event")
            return
        seen = self.seen
        if chunk.usage is not None:
            seen.prompt_tokens = chunk.usage.prompt_tokens
            seen.completion_tokens = chunk.usage.completion_tokens
        if chunk.error is not None:
            self._fail(_reason_of(chunk.error) or "error_event")
            return
        said = ""
        for choice in chunk.choices:
            if choice.delta is not None:
                delta = choice.delta
                said = delta.content or delta.reasoning_content or delta.reasoning or ("·" if delta.tool_calls else "")
            else:
                said = choice.text or ""
            if said:
                break
        if not said:
            return
        seen.events += 1
        if seen.first_at:
            seen.gaps_ms.append(round((now - self._last_at) * 1000, 2))
        else:
            seen.first_at = now
        self._last_at = now
        if self._keep is not None:
            self._keep.append(said)

    def _read_whole(self) -> None:
        try:
            reply = _chunk.decode(b"".join(self._body))
        except msgspec.MsgspecError:
            self._fail("bad_body")
            return
        seen = self.seen
        if reply.error is not None or not reply.choices:
            self._fail(_reason_of(reply.error) or "no_choices")
            return
        if reply.usage is not None:
            seen.prompt_tokens = reply.usage.prompt_tokens
            seen.completion_tokens = reply.usage.completion_tokens
        if self._keep is not None:
            message = reply.choices[0].message
            self._keep.append((message.content if message is not None else reply.choices[0].text) or "")
        self._succeed()

    def _refused(self) -> None:
        seen = self.seen
        reason = seen.reason if _REASON.fullmatch(seen.reason) else _reason_of_body(b"".join(self._body))
        seen.reason = ""
        self._fail(reason or "no_reason")
        if seen.status in (429, 503):
            seen.outcome = Outcome.REFUSED

    def _succeed(self) -> None:
        if not self.seen.reason:
            self.seen.outcome = Outcome.OK
            self.seen.text = "".join(self._keep) if self._keep is not None else None

    def _fail(self, reason: str) -> None:
        """The first reason counts: what follows from it is no news."""
        self.seen.reason = self.seen.reason or reason

    def _end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self.seen.ended_at = monotonic()
            ended()


def retry_after_s(headers: Headers) -> float | None:
    """When to come back: ``retry-after-ms``, or ``retry-after`` as seconds or as a date; None where it isn't said."""
    found = dict(headers)
    milliseconds = _number(found.get(b"retry-after-ms", b""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = found.get(b"retry-after", b"")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value.decode("ascii")).timestamp() - time())
    except (ValueError, TypeError, IndexError):
        return None


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None


class _ErrorBody(msgspec.Struct):
    error: Any = None
    code: Any = None
    type: str | None = None


def _reason_of_body(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body, type=_ErrorBody)
    except msgspec.MsgspecError:
        return ""
    return _reason_of(said.error) or _reason_of({"code": said.code, "type": said.type})


def _reason_of(error: object) -> str:
    """The reason in an OpenAI-shaped error: its code, else its type; a number says no more than the status does."""
    if not isinstance(error, dict):
        return ""
    for name in ("code", "type"):
        value = error.get(name)
        if isinstance(value, str) and _REASON.fullmatch(value):
            return value
    return ""
