"""The JSON that is read, field by field, and what is kept of it: records that msgspec makes, and their decoders.

Apart from what reads them, because msgspec looks at a class's annotations while the program runs, and a compiled
module has none that it could use (docs/decisions/012-compiled.md): these stay interpreted, the readers don't.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

SEQUENCES_MOST = 1 << 14
"""vLLM's own limit for ``n``, which older ones lack; nor may a request bring more prompts."""

_Sequences = Annotated[int, msgspec.Meta(ge=1, le=SEQUENCES_MOST)]
_Limit = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
_Tokens = Annotated[int, msgspec.Meta(ge=0)]
"""A counter would go backwards by what an engine that says less than nothing says."""

ABSENT = msgspec.Raw()


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT
    functions: msgspec.Raw = ABSENT
    n: _Sequences | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    max_output_tokens: _Limit | None = None
    prompt: msgspec.Raw = ABSENT
    prompt_embeds: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT
    background: bool | None = None
    previous_response_id: str | None = None


class Scored(msgspec.Struct):
    text_1: msgspec.Raw = ABSENT
    text_2: msgspec.Raw = ABSENT
    data_1: msgspec.Raw = ABSENT
    data_2: msgspec.Raw = ABSENT
    queries: msgspec.Raw = ABSENT
    documents: msgspec.Raw = ABSENT
    items: msgspec.Raw = ABSENT


class Generate(msgspec.Struct):
    prompt: str
    model: str | None = None
    stream: msgspec.Raw = ABSENT


class Fields(msgspec.Struct):
    """The fields that are set in a caller's JSON, as they stand there."""

    model: msgspec.Raw = ABSENT
    stream_options: msgspec.Raw = ABSENT
    include_usage: msgspec.Raw = ABSENT


class Asked(msgspec.Struct, frozen=True):
    """What the gateway has read of a request.

    Attributes:
        model: the model's name, as the caller wrote it.
        stream: whether events are asked for.
        include_usage: whether the caller asked for usage in the stream.
        sequences: how many sequences the engine will make of it (``n`` × prompts), at least 1.
        has_stream_options: whether the body has ``stream_options`` already.
        interval: how many tokens an event is to have, where the caller says so.
        has_messages: whether it is a chat's.
        has_tools: whether the engine may have to find calls of tools in what it makes.
        max_tokens: how many tokens a sequence may have at most, where the caller said so.
        in_background: nobody waits for it: a user interface asks for a title, tags or the like.
        media_bytes: how much of the body says nothing of its tokens: pictures and sounds, all but what each is taken
            for.
        follows: it goes on from a response that an engine remembers.
    """

    model: str
    stream: bool = False
    include_usage: bool = False
    sequences: int = 1
    has_stream_options: bool = False
    interval: int | None = None
    has_tools: bool = False
    has_messages: bool = False
    max_tokens: int | None = None
    in_background: bool = False
    media_bytes: int = 0
    follows: bool = False


class Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    model: str = ""
    choices: list[Choice] = []


class Stop(msgspec.Struct):
    stop_reason: str | None = None


class Outcome(msgspec.Struct):
    """How an answer says that it ended: whole, or in the event that does."""

    type: str = ""
    status: str = ""
    stop_reason: str | None = None
    delta: Stop | None = None
    response: Outcome | None = None


class Error(msgspec.Struct):
    message: str = ""


class Errors(msgspec.Struct):
    error: Error = msgspec.field(default_factory=Error)


class Counts(msgspec.Struct):
    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    cache_read_input_tokens: _Tokens | None = None
    cache_creation_input_tokens: _Tokens | None = None

    @property
    def prompt(self) -> int | None:
        """Tokens of the prompt; Anthropic's ``input_tokens`` are those of them that no cache had."""
        if self.prompt_tokens is not None or self.input_tokens is None:
            return self.prompt_tokens
        return self.input_tokens + (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)


class Inner(msgspec.Struct):
    usage: Counts | None = None


class Told(msgspec.Struct):
    usage: Counts | None = None
    response: Inner | None = None
    message: Inner | None = None


body = msgspec.json.Decoder(Body)
scored = msgspec.json.Decoder(Scored)
generate = msgspec.json.Decoder(Generate)
fields = msgspec.json.Decoder(Fields)
completion = msgspec.json.Decoder(Completion)
outcome = msgspec.json.Decoder(Outcome)
errors = msgspec.json.Decoder(Errors)
told = msgspec.json.Decoder(Told)
