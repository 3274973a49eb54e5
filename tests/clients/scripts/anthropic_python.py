"""anthropic-python against the Messages API, used as its own documentation shows."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic

from tests.clients.scripts.telling import Told, cancel_in_mid_stream, serve

MODEL = "headgate-simulated"


def client(url: str, key: str = "none", headers: dict[str, str] | None = None, **options: Any) -> anthropic.Anthropic:
    if headers:
        options["default_headers"] = headers
    return anthropic.Anthropic(base_url=url, api_key=key, **options)


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


def models(told: Told, *, ask: dict[str, Any]) -> None:
    with client(**ask) as sdk:
        told.more["models"] = [model.id for model in sdk.models.list()]
        told.more["one"] = sdk.models.retrieve(MODEL).id


def whole(
    told: Told, *, ask: dict[str, Any], tokens: int = 4, text: str = "Hello", model: str = MODEL, **fields: Any
) -> None:
    with client(**ask) as sdk:
        message = sdk.messages.create(model=model, messages=messages(text), max_tokens=tokens, **fields)
    told.text = "".join(block.text for block in message.content if block.type == "text")
    told.finish = message.stop_reason
    told.usage = message.usage.model_dump()
    told.headgate = (message.model_extra or {}).get("headgate")
    told.more["tool_calls"] = [block.model_dump() for block in message.content if block.type == "tool_use"]


def streamed(
    told: Told,
    *,
    ask: dict[str, Any],
    tokens: int = 4,
    text: str = "Hello",
    usage: bool = False,
    stop_after: int | None = None,
    **fields: Any,
) -> None:
    """By the helper that gathers the message; usage comes with every message of this API."""
    with (
        client(**ask) as sdk,
        sdk.messages.stream(model=MODEL, messages=messages(text), max_tokens=tokens, **fields) as stream,
    ):
        for piece in stream.text_stream:
            told.text += piece
            told.pieces += 1
            if stop_after is not None and told.pieces >= stop_after:
                return
        message = stream.get_final_message()
    told.finish = message.stop_reason
    told.usage = message.usage.model_dump()
    told.more["tool_calls"] = [block.model_dump() for block in message.content if block.type == "tool_use"]


def events(told: Told, *, ask: dict[str, Any], tokens: int = 4, **fields: Any) -> None:
    """The bare events."""
    with client(**ask) as sdk:
        for event in sdk.messages.create(
            model=MODEL, messages=messages("Hello"), max_tokens=tokens, stream=True, **fields
        ):
            told.more.setdefault("events", []).append(event.type)
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                told.text += event.delta.text
                told.pieces += 1
            elif event.type == "message_delta":
                told.finish = event.delta.stop_reason


def cancelled(told: Told, *, ask: dict[str, Any], tokens: int, stop_after: int) -> None:
    async def read(enough: asyncio.Event) -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=ask["url"], api_key="none") as sdk,
            sdk.messages.stream(model=MODEL, messages=messages("Hello"), max_tokens=tokens) as stream,
        ):
            async for _ in stream.text_stream:
                told.pieces += 1
                if told.pieces >= stop_after:
                    enough.set()

    cancel_in_mid_stream(told, read)


def count(told: Told, *, ask: dict[str, Any], text: str) -> None:
    with client(**ask) as sdk:
        told.more["tokens"] = sdk.messages.count_tokens(model=MODEL, messages=messages(text)).input_tokens


if __name__ == "__main__":
    serve({do.__name__: do for do in (models, whole, streamed, events, cancelled, count)})
