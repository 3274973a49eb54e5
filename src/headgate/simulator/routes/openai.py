"""``POST /v1/chat/completions`` and ``/v1/completions``: one way, two shapes.

A chunk is put together from bytes that don't change during a reply; an event costs no JSON encoder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from headgate.simulator.fields import Fields, rendered, wrong
from headgate.simulator.problem import Problem
from headgate.simulator.service import Generation, request_id
from headgate.simulator.wire import Events

if TYPE_CHECKING:
    from headgate.simulator.answer import Answer, Delta
    from headgate.simulator.service import Service
    from headgate.simulator.wire import Exchange

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Shape:
    """How a choice looks: what stands around its text in a chunk, and the objects' names."""

    prefix: str
    whole: str
    chunk: str
    before_text: bytes
    after_text: bytes


CHAT = Shape(
    prefix="chatcmpl",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    before_text=b',"delta":{"content":"',
    after_text=b'"},"logprobs":null,"finish_reason":',
)
TEXT = Shape(
    prefix="cmpl",
    whole="text_completion",
    chunk="text_completion",
    before_text=b',"text":"',
    after_text=b'","logprobs":null,"finish_reason":',
)


@dataclass(slots=True)
class Reply:
    """What is the same in every part of one reply."""

    id: str
    model: str
    created: int
    shape: Shape
    prompt_tokens: int

    def usage(self, completion_tokens: int) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
        }

    def head(self) -> bytes:
        """A chunk up to its choices."""
        fields = {"id": self.id, "object": self.shape.chunk, "created": self.created, "model": self.model}
        return b"data: " + msgspec.json.encode(fields)[:-1] + b',"choices":['


async def chat(exchange: Exchange, service: Service) -> None:
    """``POST /v1/chat/completions``."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    prompt = rendered(fields.any("messages"), fields.any("tools"))
    limit = fields.integer("max_completion_tokens", 1) or fields.integer("max_tokens", 1)
    await _answer(exchange, service, fields, CHAT, model, [prompt], limit)


async def completions(exchange: Exchange, service: Service) -> None:
    """``POST /v1/completions``, with one prompt or a list of them."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    await _answer(exchange, service, fields, TEXT, model, fields.prompts("prompt"), fields.integer("max_tokens", 1))


async def _answer(
    exchange: Exchange,
    service: Service,
    fields: Fields,
    shape: Shape,
    model: str,
    prompts: list[bytes],
    limit: int | None,
) -> None:
    stream = fields.flag("stream")
    options = fields.inner("stream_options")
    if not stream and fields.any("stream_options") is not None:
        wrong("stream_options", "Stream options can only be defined when `stream=True`.")
    n = fields.integer("n", 1) or 1
    interval = fields.integer("stream_interval", 1) or 1
    plans = service.generate(fields, prompts, limit, n)
    prompt_tokens = sum(plan.prompt_tokens for plan in plans[::n])
    reply = Reply(request_id(exchange, shape.prefix), model, int(time.time()), shape, prompt_tokens)
    with Generation(service, exchange, plans) as answer:
        if stream:
            answer.interval = max(interval, service.stream_interval)
            continuous = options.flag("continuous_usage_stats")
            await _stream(exchange, answer, reply, options.flag("include_usage"), continuous)
        else:
            texts = await answer.whole()
            await exchange.json(_whole(answer, reply, texts))


def _whole(answer: Answer, reply: Reply, texts: list[str]) -> dict[str, Any]:
    choices = []
    for index, (text, plan) in enumerate(zip(texts, answer.plans, strict=True)):
        choice: dict[str, Any] = {"index": index}
        if reply.shape is CHAT:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        else:
            choice["text"] = text
        finish = answer.sequences[index].finished
        choice |= {"logprobs": None, "finish_reason": finish, "stop_reason": plan.stop_reason}
        choices.append(choice)
    details = {"cached_tokens": answer.cached_tokens} if answer.cached_tokens else None
    return {
        "id": reply.id,
        "object": reply.shape.whole,
        "created": reply.created,
        "model": reply.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": reply.usage(answer.made) | {"prompt_tokens_details": details},
    }


async def _stream(exchange: Exchange, answer: Answer, reply: Reply, include_usage: bool, continuous: bool) -> None:
    shape, head, continuous = reply.shape, reply.head(), continuous and include_usage
    before = [b'%b{"index":%d%b' % (head, i, shape.before_text) for i in range(len(answer.plans))]
    last_stop = [msgspec.json.encode(plan.stop_reason) for plan in answer.plans]
    made = 0

    def chunk(index: int, text: bytes, finish: bytes = b"null", stop: bytes = b"") -> bytes:
        usage = b',"usage":' + msgspec.json.encode(reply.usage(made)) if continuous else b""
        return b"".join((before[index], text, shape.after_text, finish, stop, b"}]", usage, b"}\n\n"))

    def rendered_delta(delta: Delta) -> bytes:
        if delta.finish is None:
            return chunk(delta.index, delta.text.encode())
        finish, stop = b'"%b"' % delta.finish.encode(), b',"stop_reason":' + last_stop[delta.index]
        return chunk(delta.index, delta.text.encode(), finish, stop)

    def error(message: str) -> bytes:
        body = Problem(500, message, "InternalServerError").body
        return b"data: " + msgspec.json.encode(body) + b"\n\n" + DONE

    await exchange.head()
    events = Events(exchange, error, lambda text: chunk(0, text.encode()))
    begun: set[int] = set()
    while deltas := await answer.deltas():
        for delta in deltas:
            if shape is CHAT and delta.index not in begun:
                begun.add(delta.index)
                await events.event(_role(head, delta.index, b"" if not continuous else _usage(reply, made)))
            made += delta.tokens
            await events.event(rendered_delta(delta))
    if include_usage:
        await events.event(head + b"]" + _usage(reply, made) + b"}\n\n")
    await events.event(DONE)
    await events.close()


def _usage(reply: Reply, made: int) -> bytes:
    return b',"usage":' + msgspec.json.encode(reply.usage(made))


def _role(head: bytes, index: int, usage: bytes) -> bytes:
    delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}' % index
    return head + delta + b"]" + usage + b"}\n\n"
