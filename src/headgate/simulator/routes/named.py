"""``POST /v1/responses`` and ``/v1/messages``: streams of named events, with no ``[DONE]`` at their end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from headgate.simulator import text
from headgate.simulator.fields import Fields, flattened, rendered
from headgate.simulator.service import Generation, request_id
from headgate.simulator.wire import Events

if TYPE_CHECKING:
    from headgate.simulator.answer import Answer
    from headgate.simulator.service import Service
    from headgate.simulator.wire import Exchange


def event(name: str, value: dict[str, Any]) -> bytes:
    """One named event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **value}))


async def responses(exchange: Exchange, service: Service) -> None:
    """``POST /v1/responses``, streamed and whole."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    given = fields.any("input")
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    prompt = rendered(messages, fields.text("instructions"))
    plans = service.generate(fields, [prompt], fields.integer("max_output_tokens", 1))
    reply = _Response(request_id(exchange, "resp"), model, plans[0].prompt_tokens)
    with Generation(service, exchange, plans) as answer:
        if fields.flag("stream"):
            await _stream_response(exchange, answer, reply)
        else:
            (whole,) = await answer.whole()
            await exchange.json(reply.ended(answer, whole))


class _Response:
    """The response object at its stages."""

    def __init__(self, id_: str, model: str, prompt_tokens: int) -> None:
        self._fixed = {"id": id_, "object": "response", "created_at": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens
        self.item_id = f"msg_{id_}"

    def begun(self) -> dict[str, Any]:
        """In progress, with no output yet."""
        return {**self._fixed, "status": "in_progress", "output": [], "usage": None}

    def item(self, whole: str | None = None, status: str = "in_progress") -> dict[str, Any]:
        """The one message of the output."""
        content = [] if whole is None else [self.part(whole)]
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def part(self, whole: str) -> dict[str, Any]:
        """The one part of that message."""
        return {"type": "output_text", "text": whole, "annotations": [], "logprobs": None}

    def ended(self, answer: Answer, whole: str) -> dict[str, Any]:
        """Completed, or incomplete where the answer was cut at its limit."""
        finish = answer.sequences[0].finished
        cut = {"reason": "max_output_tokens"} if finish == "length" else None
        status = {"stop": "completed", "length": "incomplete"}.get(finish or "", "cancelled")
        return {
            **self._fixed,
            "status": status,
            "incomplete_details": cut,
            "output": [self.item(whole, "completed")],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": self._prompt_tokens,
                "input_tokens_details": {"cached_tokens": answer.cached_tokens},
                "output_tokens": answer.made,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._prompt_tokens + answer.made,
            },
        }


async def _stream_response(exchange: Exchange, answer: Answer, reply: _Response) -> None:
    number = -1
    place = {"item_id": reply.item_id, "output_index": 0, "content_index": 0}

    def numbered(name: str, value: dict[str, Any]) -> bytes:
        nonlocal number
        number += 1
        return event(f"response.{name}", {"sequence_number": number, **value})

    def delta(piece: str) -> bytes:
        return numbered("output_text.delta", {**place, "delta": piece, "logprobs": []})

    def error(message: str) -> bytes:
        body = {"code": "server_error", "message": message, "param": None, "sequence_number": number + 1}
        return event("error", body)

    await exchange.head()
    events = Events(exchange, error, delta)
    await events.event(numbered("created", {"response": reply.begun()}))
    await events.event(numbered("in_progress", {"response": reply.begun()}))
    whole = ""
    while deltas := await answer.deltas():
        for piece in deltas:
            if not whole:
                await events.event(numbered("output_item.added", {"output_index": 0, "item": reply.item()}))
                await events.event(numbered("content_part.added", {**place, "part": reply.part("")}))
            whole += piece.text
            await events.event(delta(piece.text))
    item = reply.item(whole, "completed")
    await events.event(numbered("output_text.done", {**place, "text": whole, "logprobs": []}))
    await events.event(numbered("content_part.done", {**place, "part": reply.part(whole)}))
    await events.event(numbered("output_item.done", {"output_index": 0, "item": item}))
    await events.event(numbered("completed", {"response": reply.ended(answer, whole)}))
    await events.close()


async def messages(exchange: Exchange, service: Service) -> None:
    """``POST /v1/messages`` in Anthropic's shape, streamed and whole."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    plans = service.generate(fields, [_conversation(fields)], fields.integer("max_tokens", 1))
    message: dict[str, Any] = {
        "id": request_id(exchange, "chatcmpl"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": plans[0].prompt_tokens, "output_tokens": 0},
    }
    with Generation(service, exchange, plans) as answer:
        if fields.flag("stream"):
            await _stream_message(exchange, answer, message)
        else:
            (whole,) = await answer.whole()
            message["content"] = [{"type": "text", "text": whole}]
            message["usage"]["output_tokens"] = answer.made
            await exchange.json(message | _stop(answer))


async def count_tokens(exchange: Exchange, service: Service) -> None:
    """``POST /v1/messages/count_tokens``."""
    fields = Fields(await exchange.json_body())
    service.model(fields)
    await exchange.json({"input_tokens": text.token_count(_conversation(fields))})


def _conversation(fields: Fields) -> bytes:
    system = flattened(fields.any("system"))
    return rendered(fields.any("messages"), f"{system}{fields.any('tools') or ''}")


def _stop(answer: Answer) -> dict[str, Any]:
    finish, reason = answer.sequences[0].finished, answer.plans[0].stop_reason
    if finish == "length":
        return {"stop_reason": "max_tokens"}
    if finish == "stop" and reason is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": reason}
    return {"stop_reason": "end_turn" if finish == "stop" else None}


async def _stream_message(exchange: Exchange, answer: Answer, message: dict[str, Any]) -> None:
    def delta(piece: str) -> bytes:
        return event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}})

    def error(text_: str) -> bytes:
        return event("error", {"error": {"type": "internal_error", "message": text_}})

    await exchange.head()
    events = Events(exchange, error, delta)
    begun = False
    while deltas := await answer.deltas():
        for piece in deltas:
            if not begun:
                begun = True
                await events.event(event("message_start", {"message": message}))
                block = {"type": "text", "text": ""}
                await events.event(event("content_block_start", {"index": 0, "content_block": block}))
            await events.event(delta(piece.text))
    await events.event(event("content_block_stop", {"index": 0}))
    usage = {"input_tokens": message["usage"]["input_tokens"], "output_tokens": answer.made}
    await events.event(event("message_delta", {"delta": _stop(answer), "usage": usage}))
    await events.event(event("message_stop", {}))
    await events.close()
