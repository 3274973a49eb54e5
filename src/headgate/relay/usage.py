"""What events and whole replies say of tokens: read on the way, added to, and taken out again.

One reader serves every API, because their usage objects differ only in names and place:

===================  =================================================  =============================
API                  where a stream says it                             names
===================  =================================================  =============================
chat, completions    a chunk with ``choices: []`` (or on the last one)  prompt_tokens, completion_tokens
responses            ``response`` of ``response.completed``             input_tokens, output_tokens
messages             ``message`` of ``message_start``, ``message_delta``  input_tokens, output_tokens
===================  =================================================  =============================
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from headgate import shapes
from headgate.openai import UNREADABLE
from headgate.relay import sse

USAGE_BYTES = 4096
"""How long the usage of a long reply may be, its name included."""
_USAGE = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*(?={)')
"""Its name alone is found elsewhere, too: it is a token among log-probabilities."""


@dataclass(slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a stream's tokens are spread over its events.

    Attributes:
        per_event: so many in each that is not one of the first.
        alone: the first events of all sequences, with a token each or a role.
        most: tokens that there can be at most; None: nobody said.
    """

    per_event: int
    alone: int
    most: int | None

    def tokens(self, events: int) -> int:
        """As many as so many events tell of."""
        told = min(events, self.alone) + max(events - self.alone, 0) * self.per_event
        return told if self.most is None else min(told, max(self.most, events))


_first_value = json.JSONDecoder().raw_decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_error = msgspec.json.Decoder(dict[str, Any])


def read(data: bytes, usage: Usage) -> bool:
    """Take over what the JSON ``data`` says of tokens into ``usage``; whether it said anything."""
    try:
        told = shapes.told.decode(data)
    except UNREADABLE:
        return False
    counts = told.usage
    if counts is None and told.response is not None:
        counts = told.response.usage
    if counts is not None:
        return _take(counts, usage)
    if told.message is not None and told.message.usage is not None:
        # The beginning of a message: its prompt is known, and the tokens that it will have are not.
        usage.prompt_tokens = told.message.usage.prompt or 0
    return False


class Finder:
    """Reads the usage of a whole reply that is too long to be kept, wherever in it that stands.

    It is not always at the end: vLLM writes a long prompt's log-probabilities and tokens behind it.

    Attributes:
        told: whether any was found; ``usage`` has the last.
    """

    __slots__ = ("_rest", "_usage", "told")

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._rest = b""
        self.told = False

    def feed(self, data: bytes) -> None:
        """The next part of the reply."""
        data = self._rest + data
        for name in _USAGE.finditer(data):
            if self._read(data[name.end() : max(name.end(), name.start() + USAGE_BYTES)]):
                self.told = True
        self._rest = data[-USAGE_BYTES:]  # one may be cut by the end of this part; it does no harm to read one twice

    def _read(self, value: bytes) -> bool:
        try:
            counts, _ = _first_value(value.decode("utf-8", "replace"))
            return _take(msgspec.convert(counts, shapes.Counts), self._usage)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            return False


def _take(counts: shapes.Counts, usage: Usage) -> bool:
    prompt = counts.prompt_tokens if counts.prompt_tokens is not None else counts.prompt
    completion = counts.completion_tokens if counts.completion_tokens is not None else counts.output_tokens
    if prompt is not None:
        usage.prompt_tokens = prompt
    if completion is not None:
        usage.completion_tokens = completion
    return prompt is not None or completion is not None


def has_no_choices(data: bytes) -> bool:
    """Whether a chunk is the usage chunk: its ``choices`` are there and empty."""
    try:
        return bytes(_object.decode(data).get("choices", msgspec.Raw(b"null"))).strip() == b"[]"
    except UNREADABLE:
        return False


def without_usage(event: bytes) -> bytes:
    """The same chunk with no ``usage`` key, for a client that didn't ask for it."""
    try:
        fields = _object.decode(sse.payload(event))
    except UNREADABLE:
        return event
    if fields.pop("usage", None) is None:
        return event
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def with_headgate(body: bytes, facts: dict[str, object]) -> bytes:
    """A JSON object with our facts added under the key ``headgate``; anything else comes back as it was."""
    end = body.rstrip()
    if not (end.startswith(b"{") and end.endswith(b"}")) or end.find(b'"') < 0:
        return body
    return end[:-1] + b',"headgate":' + msgspec.json.encode(facts) + b"}"


def error_status(data: bytes) -> int | None:
    """The HTTP status that an error event stands for; None where ``data`` is no error.

    vLLM puts the status into ``error.code``; where there is none (or no status) it is 500.
    """
    try:
        error = _error.decode(data).get("error")
    except UNREADABLE:
        return None
    if not error:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 500
