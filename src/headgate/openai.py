"""The fields on the wire that the gateway itself reads and writes; everything else passes through unread.

A request is decoded only as far as the gate and the relay need it (model, stream, how many sequences); JSON that is
broken anywhere, a missing model or a field of a wrong type is an error that says where. Unknown fields are the
engine's business.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import msgspec

from headgate import shapes
from headgate.errors import Reason, Refusal
from headgate.shapes import ABSENT, SEQUENCES_MOST, Asked


class Dialect(Enum):
    """How an API ends a stream, and how it says that something went wrong."""

    OPENAI = "openai"  # data-only events, closed by [DONE]
    RESPONSES = "responses"  # named events, closed by response.completed, .incomplete or .failed
    ANTHROPIC = "anthropic"  # named events, closed by message_stop


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading JSON may raise: it is none, isn't UTF-8 (told of keys alone), or is nested too deeply."""

DONE = b"data: [DONE]\n\n"


def id_headers(dialect: Dialect, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers that tell a client the id of its request; Anthropic's SDKs look for another name than all others."""
    value = request_id.encode("latin-1")
    named = [(b"x-request-id", value)]
    if dialect is Dialect.ANTHROPIC:
        named.append((b"request-id", value))
    return named


_PARTS = 64

_UNSET = (b"", b"null")


_list = msgspec.json.Decoder(list[msgspec.Raw])
_most = msgspec.json.Decoder(tuple[(msgspec.Raw,) * SEQUENCES_MOST])  # type: ignore[misc]  # it is none to be checked
_TASK = re.compile(
    rb'"content"\s*:\s*"### Task:\\n(?:Generate a concise|Generate \d-\d broad tags|(?:Predict|Suggest) \d-\d )'
)
"""How the prompts begin that Open WebUI makes by itself (title, tags, follow-ups), beside a person's question.

Its others begin with a task too, and a person waits for them: search queries, a question with documents, a picture.
"""
_SEVERAL = re.compile(rb'\[[ \t\r\n]*["\[]')
_MEDIUM = re.compile(rb'"data(?:"[ \t\r\n]*:[ \t\r\n]*"|:[^,"]{0,128},)(?=[A-Za-z0-9+/=_\\-]{1024})')
_MEDIUM_BYTES = 4096
"""What a picture or a sound is taken for, of bytes of text: a thousand tokens, near what models make of most."""
_MEDIA_LOOKS = 256
"""How many places that look like one and are none are looked at: a body of 32 MiB may have five million."""
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_NO_LIST = (b"", b"n")
_LOOKS = 2
"""How many places are looked at where a key may stand: each costs as much as reading all that is before it."""
_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(.*)`")


def read_request(body: bytes, *, required: tuple[str, ...] = ()) -> Asked:
    """Read a JSON body.

    Args:
        body: the request's body.
        required: fields besides ``model`` that this API can't do without, of those that are read here.

    Raises:
        Refusal: ``invalid_request``, with the place in the message and the field in ``param``.
    """
    try:
        if not body.isascii():
            body.decode()  # the decoder doesn't look into strings that it skips
        fields = shapes.body.decode(body)
    except UNREADABLE as error:
        raise _invalid(error, body) from None
    if not fields.model:
        raise Refusal(Reason.INVALID_REQUEST, "`model` must not be empty.", param="model")
    for name in required:
        if _start(getattr(fields, name)) in _UNSET and not (name == "prompt" and _is_set(fields.prompt_embeds)):
            raise Refusal(Reason.INVALID_REQUEST, f"`{name}` is required.", param=name)
    if _start(fields.messages)[:1] not in (b"", b"[", b"n"):
        raise Refusal(Reason.INVALID_REQUEST, "`messages` must be an array.", param="messages")
    if fields.background:
        raise Refusal(
            Reason.INVALID_REQUEST,
            "`background` is not offered here: its work would outlive the slot that it was given.",
            param="background",
        )
    prompts = 1
    # An API reads one of them, and where it must have `messages` they are one conversation.
    for several in (fields.prompt, fields.input, ABSENT if "messages" in required else fields.messages):
        if several is not ABSENT:
            prompts = max(prompts, _count_prompts(several))
    if fields.prompt_embeds is not ABSENT and _is_set(fields.prompt_embeds):  # they come beside the other prompts
        prompts = _count_prompts(fields.prompt_embeds) + (prompts if _is_set(fields.prompt) else 0)
    options = fields.stream_options
    return Asked(
        model=fields.model,
        stream=bool(fields.stream),
        include_usage=options is not None and bool(options.include_usage),
        sequences=prompts * (fields.n or 1),
        has_stream_options=options is not None,
        interval=_interval(fields.stream_interval),
        has_messages=_start(fields.messages) not in _UNSET,
        has_tools=_start(fields.tools)[:1] not in _NO_LIST or _start(fields.functions)[:1] not in _NO_LIST,
        max_tokens=fields.max_completion_tokens or fields.max_tokens or fields.max_output_tokens,
        in_background=not fields.stream and _TASK.search(fields.messages) is not None,
        media_bytes=_media_bytes(body) if len(body) > _MEDIUM_BYTES else 0,
        follows=bool(fields.previous_response_id),
    )


def _interval(said: msgspec.Raw) -> int | None:
    """What a caller says of ``stream_interval``; 1 where that can't be, for the engine to say so."""
    if _start(said) in _UNSET:
        return None
    digits = bytes(said)
    return int(digits) if len(digits) < 8 and digits.isdigit() else 1


def _media_bytes(body: bytes) -> int:
    """Bytes of base64 in ``data:`` URLs and under ``data``, which is where every API has it, beyond ``_MEDIUM_BYTES``.

    Not by one regular expression: a body may be long, and finding alone is ten times as quick.
    """
    found = looks = 0
    at = -1
    while looks < _MEDIA_LOOKS and (at := body.find(b'"data', at + 1)) >= 0:
        medium = _MEDIUM.match(body, at)
        if medium is not None and not body.endswith(b"\\", 0, at):  # else it is quoted in a text, and read as one
            end = body.find(b'"', medium.end())
            found += max(0, end - medium.end() - _MEDIUM_BYTES)
            at = end
        else:
            looks += 1
    return found


def read_scored(body: bytes) -> Asked:
    """Read a request for scores of pairs: one text with each of a list, or two lists' texts with one another.

    ``shapes.Scored`` has all the names that vLLM knows the lists by; which of several it goes by is its own business.

    Raises:
        Refusal: ``invalid_request``.
    """
    asked = read_request(body)
    lists = (bytes(texts) for texts in msgspec.structs.astuple(shapes.scored.decode(body)) if _start(texts)[:1] == b"[")
    return msgspec.structs.replace(asked, sequences=max([1, *(_count(texts) for texts in lists)]))


def _start(raw: msgspec.Raw) -> bytes:
    """How a value begins, not copied whole: a prompt may be long. All of it, where it is as short as ``null``."""
    return memoryview(raw)[:5].tobytes()


def _is_set(raw: msgspec.Raw) -> bool:
    return _start(raw) not in _UNSET


def _count_prompts(field: msgspec.Raw) -> int:
    """How many prompts a field holds: a list of texts, of token lists or of conversations has several."""
    # A list of token numbers is one prompt; so is one of message objects.
    return max(_count(bytes(field)), 1) if _SEVERAL.match(field) is not None else 1


def _count(raw: bytes) -> int:
    """How many elements a list has.

    Raises:
        Refusal: ``invalid_request``: more than ``SEQUENCES_MOST``. Others wait while they are counted, and a body of
            32 MiB may have ten million.
    """
    if raw.count(b",") >= SEQUENCES_MOST:  # or they stand within its texts
        try:
            _most.decode(memoryview(raw)[:-1])  # without its end it is broken, unless it is too long before
        except msgspec.ValidationError:
            what = f"A request may have at most {SEQUENCES_MOST} prompts or texts."
            raise Refusal(Reason.INVALID_REQUEST, what) from None
        except msgspec.DecodeError:
            pass
    return len(_list.decode(raw))


def _invalid(error: Exception, body: bytes) -> Refusal:
    text = str(error)
    if not body.strip():
        return Refusal(Reason.INVALID_REQUEST, "The body is empty: a JSON object is wanted.")
    if isinstance(error, RecursionError):
        return Refusal(Reason.INVALID_REQUEST, "The body is nested too deeply.")
    if match := _AT.search(text):
        return Refusal(Reason.INVALID_REQUEST, text.replace("`$.", "`") + ".", param=match[1].split(".")[0] or None)
    if match := _MISSING.search(text):
        return Refusal(Reason.INVALID_REQUEST, f"`{match[1]}` is required.", param=match[1])
    if isinstance(error, msgspec.ValidationError):
        return Refusal(Reason.INVALID_REQUEST, f"The body must be a JSON object: {text}.")
    return Refusal(Reason.INVALID_REQUEST, f"The body is not JSON: {text}.")


def ask_for_usage(body: bytes, asked: Asked) -> bytes:
    """The same streamed request with ``stream_options.include_usage`` set, so that tokens are counted exactly."""
    if not asked.has_stream_options:
        # Appended, so that nothing else of the caller's bytes is touched; where the key stands twice (as null, say)
        # the last one counts, for us as for the engine.
        end = body.rstrip()
        return end[:-1] + b',"stream_options":{"include_usage":true}}'
    options = bytes(shapes.fields.decode(body).stream_options)
    return _with(body, "stream_options", _with(options, "include_usage", b"true"))


def ask_for_interval(body: bytes, tokens: int) -> bytes:
    """The same streamed request, to get so many tokens in an event: vLLM's ``stream_interval``, which it lacked."""
    return body.rstrip()[:-1] + b',"stream_interval":%d}' % tokens


def _with(data: bytes, name: str, value: bytes) -> bytes:
    """The object ``data`` with a field of ``shapes.Fields`` set to ``value``, and nothing else of it touched.

    Not all of it decoded: it may have millions of fields, which would take 2 s and 600 MiB.
    """
    old = memoryview(getattr(shapes.fields.decode(data), name))
    key = b'"%b"' % name.encode()
    at = len(data) if old else -1
    for _ in range(_LOOKS):
        at = data.rfind(key, 0, max(at, 0))
        if at < 0:
            break
        start = _COLON.match(data, at + len(key))
        if start is not None and _is_field(data[:at]) and data[start.end() : start.end() + len(old)] == old:
            told = b"".join((data[: start.end()], value, data[start.end() + len(old) :]))
            if bytes(getattr(shapes.fields.decode(told), name)) == value:
                return told
    # Where the key stands twice (the other one null, say, or spelt with escapes) the last one counts, for us as for
    # the engine.
    head = data.rstrip()[:-1].rstrip()
    return b"".join((head, b"" if head.endswith(b"{") else b",", key, b":", value, b"}"))


def _is_field(before: bytes) -> bool:
    """Whether what stands ``before`` a key is the object itself: no text, and no object within it."""
    if not before[-64:].rstrip().endswith((b"{", b",")):
        return False
    try:
        shapes.fields.decode(before + b'"":0}')
    except UNREADABLE:
        return False
    return True


def generate_to_completion(body: bytes, default_model: str | None) -> tuple[bytes, Asked]:
    """A ``/generate`` request as the ``/v1/completions`` request it stands for.

    Raises:
        Refusal: ``invalid_request``.
    """
    try:
        fields = shapes.generate.decode(body)
    except UNREADABLE as error:
        raise _invalid(error, body) from None
    if _start(fields.stream) == b"true":
        raise Refusal(Reason.INVALID_REQUEST, "`/generate` answers whole; /v1/completions streams.", param="stream")
    model = fields.model or default_model
    if not model:
        raise Refusal(Reason.INVALID_REQUEST, "`model` is required while no model is loaded.", param="model")
    if not fields.model:
        body = _with(body, "model", msgspec.json.encode(model))
    return body, read_request(body, required=("prompt",))


_NAME_LENGTH = 200


def shortened(name: str) -> str:
    """A caller's word, fit to be said again in a message and a log line."""
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}…"


def completion_to_generate(body: bytes, facts: dict[str, object]) -> bytes:
    """A whole completion as the answer of ``/generate``: text, tokens and timings, flat."""
    completion = shapes.completion.decode(body)
    choice = completion.choices[0] if completion.choices else shapes.Choice()
    return msgspec.json.encode(
        {"text": choice.text, "model": completion.model, "finish_reason": choice.finish_reason, **facts}
    )


_TOO_MANY = (Reason.SLOTS_BUSY, Reason.QUEUE_FULL, Reason.WAIT_TOO_LONG, Reason.SHED, Reason.RATE_LIMITED)
"""Those that are answered with 429."""
_ANTHROPIC_TYPES = {
    Reason.INVALID_REQUEST: "invalid_request_error",
    Reason.UNAUTHORIZED: "authentication_error",
    Reason.FORBIDDEN: "permission_error",
    Reason.NOT_FOUND: "not_found_error",
    Reason.TOO_LARGE: "request_too_large",
    Reason.HEAD_TOO_LARGE: "request_too_large",
    Reason.REQUEST_INCOMPLETE: "invalid_request_error",
    **dict.fromkeys(_TOO_MANY, "rate_limit_error"),
    Reason.REQUEST_TIMEOUT: "timeout_error",
    Reason.QUEUE_TIMEOUT: "overloaded_error",
    Reason.ENGINE_UNAVAILABLE: "overloaded_error",
    Reason.DRAINING: "overloaded_error",
    Reason.TOO_MANY_CONNECTIONS: "overloaded_error",
}
_OPENAI_TYPES = {
    Reason.INVALID_REQUEST: "invalid_request_error",
    Reason.UNAUTHORIZED: "authentication_error",
    Reason.FORBIDDEN: "permission_error",
    Reason.NOT_FOUND: "invalid_request_error",
    Reason.TOO_LARGE: "invalid_request_error",
    Reason.HEAD_TOO_LARGE: "invalid_request_error",
    Reason.REQUEST_INCOMPLETE: "invalid_request_error",
    Reason.UNSUPPORTED_MEDIA_TYPE: "invalid_request_error",
    **dict.fromkeys(_TOO_MANY, "rate_limit_error"),
    Reason.REQUEST_TIMEOUT: "timeout_error",
}


def error_body(refusal: Refusal, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """A refusal as JSON, in the shape of its API."""
    if dialect is Dialect.ANTHROPIC:
        error: dict[str, object] = {
            "type": _ANTHROPIC_TYPES.get(refusal.reason, "api_error"),
            "message": refusal.message,
            "code": refusal.reason,
        }
        shape: dict[str, object] = {"type": "error", "error": error}
    else:
        error = {
            "message": refusal.message,
            "type": _OPENAI_TYPES.get(refusal.reason, "server_error"),
            "param": refusal.param,
            "code": refusal.reason,
        }
        shape = {"error": error}
    if refusal.retry_after_s is not None:
        error["retry_after_s"] = round(refusal.retry_after_s, 3)
    return msgspec.json.encode(shape)


def error_event(refusal: Refusal, dialect: Dialect) -> bytes:
    """The end of a stream that went wrong after its first byte: the error, and the close its API has for it."""
    if dialect is Dialect.OPENAI:
        return b"data: " + error_body(refusal) + b"\n\n" + DONE
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + error_body(refusal, dialect) + b"\n\n"
    flat = {"type": "error", "code": refusal.reason, "message": refusal.message, "param": None}
    return b"event: error\ndata: " + msgspec.json.encode(flat) + b"\n\n"


_ABORT = re.compile(rb'"finish_reason": ?"abort"')


def was_aborted(told: bytes, dialect: Dialect) -> bool:
    """Whether an answer, or the event that says how it ended, was ended by the engine itself and only looks whole.

    vLLM's word for it is ``abort``; ``/v1/messages`` has no such word there, and says none.
    """
    if dialect is Dialect.OPENAI:
        return told.find(b'"abort"') >= 0 and _ABORT.search(told) is not None
    try:
        outcome = shapes.outcome.decode(told)
    except UNREADABLE:
        return False
    if dialect is Dialect.RESPONSES:
        return (outcome.response or outcome).status == "cancelled"
    if outcome.delta is not None:
        return outcome.delta.stop_reason is None
    return outcome.type == "message" and outcome.stop_reason is None


def error_message(body: bytes) -> str:
    """What an engine's error reply says to a person; empty where it says nothing."""
    try:
        return shapes.errors.decode(body).error.message
    except UNREADABLE:
        return ""


def unflattened(error: bytes) -> bytes:
    """The flat error event of ``/v1/responses`` in the shape of an error reply; others come back as they were."""
    try:
        fields = msgspec.json.decode(error, type=dict[str, Any])
    except UNREADABLE:
        return error
    if "error" in fields or "message" not in fields:
        return error
    flat = {name: fields.get(name) for name in ("message", "param", "code")}
    return msgspec.json.encode({"error": {"type": "server_error", **flat}})


_DISPOSITION = re.compile(
    rb"""content-disposition:[ \t]*form-data;[ \t]*name=(?:"([^"\\]*)"|([\w.\-\[\]]+))"""
    rb"""(?:;[ \t]*filename=(?:"(?:[^"\\]|\\.)*"|[^\s;"]+))?(?:;[ \t]*filename\*=[^\s;"]+)?[ \t]*\Z""",
    re.IGNORECASE,
)


def _part_name(head: bytes) -> str:
    """What a part is called; one that the engine might call otherwise could bring it a model that the key may not use.

    Raises:
        Refusal: ``invalid_request``.
    """
    lines = [line for line in head.split(b"\r\n") if line[:20].lower().startswith(b"content-disposition")]
    named = _DISPOSITION.match(lines[0]) if len(lines) == 1 and head.startswith(b"\r\n") else None
    if named is None:
        raise Refusal(Reason.INVALID_REQUEST, "A part of the multipart body is not named as form data is.")
    return (named[1] if named[1] is not None else named[2]).decode("latin-1")


def multipart_fields(body: bytes, content_type: str, wanted: frozenset[str]) -> dict[str, str]:
    """The short text fields called ``wanted`` of a multipart body; files and all else are passed over unread.

    Raises:
        Refusal: ``invalid_request``: no boundary, too many parts, or a wanted field longer than 1 KiB.
    """
    match = re.search(r'boundary="?([^";,]+)"?', content_type, re.IGNORECASE)
    if match is None or content_type.lower().count("boundary") > 1:
        raise Refusal(Reason.INVALID_REQUEST, "The multipart body names no boundary, or several.")
    mark = b"--" + match[1].strip().encode("latin-1")
    found: dict[str, str] = {}
    parts = 0
    at = body.find(mark)
    while at >= 0:
        head_start = at + len(mark)
        if body.startswith(b"--", head_start):
            break
        parts += 1
        if parts > _PARTS:  # a body of 32 MiB may have millions, and each costs time that others wait for
            raise Refusal(Reason.INVALID_REQUEST, f"The multipart body has more than {_PARTS} parts.")
        head_end = body.find(b"\r\n\r\n", head_start, head_start + 8192)
        if head_end < 0:
            break
        at = body.find(b"\r\n" + mark, head_end + 2)
        key = _part_name(body[head_start:head_end])
        if key not in wanted:
            at = at + 2 if at >= 0 else -1
            continue
        if key in found:
            raise Refusal(Reason.INVALID_REQUEST, f"`{key}` stands there twice.", param=key)
        value = body[head_end + 4 : max(at, head_end + 4) if at >= 0 else len(body)]
        if len(value) > 1024:
            raise Refusal(Reason.INVALID_REQUEST, f"`{key}` is too long.", param=key)
        found[key] = value.decode("utf-8", "replace")
        at = at + 2 if at >= 0 else -1
    return found


def read_multipart(body: bytes, content_type: str) -> Asked:
    """Read a multipart request (audio).

    Raises:
        Refusal: ``invalid_request``.
    """
    fields = multipart_fields(body, content_type, frozenset({"model", "stream"}))
    model = fields.get("model", "")
    if not model:
        raise Refusal(Reason.INVALID_REQUEST, "`model` is required.", param="model")
    return Asked(
        model=model,
        stream=fields.get("stream", "").lower() in ("true", "1"),
        has_stream_options=True,
        media_bytes=max(0, len(body) - _MEDIUM_BYTES),
    )
