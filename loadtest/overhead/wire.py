"""What the fake engine and the client agree on: the request's parameters and the stamp in every event.

The parameters travel as text in the last message of the prompt, because that is the one part of a request
that no gateway drops, reorders or types: routers that parse the body forget fields they don't know.

Every event, and every whole reply, carries a stamp `@<ns>.<nonce>.<index>` as its content: the engine's
monotonic clock (one clock for all processes of a machine), the number of the request, the number of the
event. With it the client can tell a late event from an early one, a lost one, a doubled one, and one that
belongs to somebody else.

It ends at bytes: no sockets here.
"""

import json
import uuid
from dataclasses import dataclass

MODEL = "overhead-bench"

# About 900 bytes: a system prompt and a short question.
_SYSTEM_PROMPT = "You are a helpful assistant. Answer in one sentence, and say so where you are not sure. " * 10

STAMP_MARK = b'"@'
_NS_DIGITS = 20
_NS_START = len(STAMP_MARK)
_NS_END = _NS_START + _NS_DIGITS


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as the engine reads it."""

    nonce: int
    stream: bool
    include_usage: bool
    events: int
    interval_ms: float
    """0 means as fast as possible."""
    delay_ms: float
    """From the request to the first byte."""


def request_template(*, stream: bool, include_usage: bool, events: int, interval_ms: float, delay_ms: float) -> bytes:
    """A body with one `%08d` in it, for the nonce: rendering a request costs the client next to nothing."""
    content = f"events={events} interval_ms={interval_ms} delay_ms={delay_ms} nonce=%08d"
    body: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": _SYSTEM_PROMPT},
            {"role": "user", "content": content},
        ],
        "max_tokens": events,
        "temperature": 0,
    }
    if stream:
        body["stream"] = True
        if include_usage:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


def read_request(body: bytes) -> Asked:
    """Raises ValueError, KeyError or TypeError on anything that `request_template` did not make."""
    fields = json.loads(body)
    given = dict(pair.split("=", 1) for pair in fields["messages"][-1]["content"].split())
    return Asked(
        nonce=int(given["nonce"]),
        stream=bool(fields.get("stream")),
        include_usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        events=int(given["events"]),
        interval_ms=float(given["interval_ms"]),
        delay_ms=float(given["delay_ms"]),
    )


def event_template(asked: Asked, *, last: bool) -> bytes:
    """One streamed event in vLLM's shape, about 270 bytes; `%020d` is for the time, `%06d` for the index."""
    finish = '"length"' if last else "null"
    return (
        f'data: {{"id":"chatcmpl-{uuid.uuid4().hex}","object":"chat.completion.chunk","created":1750000000,'
        f'"model":"{MODEL}","choices":[{{"index":0,"delta":{{"content":"@%020d.{asked.nonce:08d}.%06d"}},'
        f'"logprobs":null,"finish_reason":{finish},"token_ids":null}}]}}\n\n'
    ).encode()


def usage_event(asked: Asked) -> bytes:
    return (
        f'data: {{"id":"chatcmpl-{uuid.uuid4().hex}","object":"chat.completion.chunk","created":1750000000,'
        f'"model":"{MODEL}","choices":[],"usage":{_usage(asked)}}}\n\n'
    ).encode()


def whole_reply(asked: Asked, now_ns: int) -> bytes:
    """A whole reply in vLLM's shape, about 700 bytes."""
    stamp = f"@{now_ns:020d}.{asked.nonce:08d}.000000"
    return (
        f'{{"id":"chatcmpl-{uuid.uuid4().hex}","object":"chat.completion","created":1750000000,'
        f'"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{stamp} '
        'and some more words, as an answer of a sentence has them.","refusal":null,"tool_calls":[],'
        '"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null}],'
        f'"service_tier":null,"system_fingerprint":null,"usage":{_usage(asked)},"prompt_logprobs":null}}'
    ).encode()


def read_stamp(event: bytes) -> tuple[int, bytes] | None:
    """The engine's time in ns, and `<nonce>.<index>` to compare with `stamp_tail`; None without a stamp."""
    start = event.find(STAMP_MARK)
    if start < 0:
        return None
    return int(event[start + _NS_START : start + _NS_END]), event[start + _NS_END + 1 : start + _NS_END + 16]


def stamp_tail(nonce: int, index: int) -> bytes:
    return b"%08d.%06d" % (nonce, index)


def _usage(asked: Asked) -> str:
    prompt_tokens = 200
    return (
        f'{{"prompt_tokens":{prompt_tokens},"total_tokens":{prompt_tokens + asked.events},'
        f'"completion_tokens":{asked.events},"prompt_tokens_details":null}}'
    )
