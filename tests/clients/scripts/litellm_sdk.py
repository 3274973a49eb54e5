"""LiteLLM's SDK as a client: ``openai/MODEL`` with an ``api_base``. (Its proxy is another thing.)"""

from __future__ import annotations

import asyncio
from typing import Any

import litellm

from tests.clients.scripts.telling import Told, cancel_in_mid_stream, serve

MODEL = "headgate-simulated"


def options(url: str, key: str = "none", **more: Any) -> dict[str, Any]:
    if headers := more.pop("headers", None):
        more["extra_headers"] = headers
    return {"api_base": f"{url}/v1", "api_key": key, **more}


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def whole(
    told: Told, *, ask: dict[str, Any], tokens: int = 4, text: str = "Hello", model: str = MODEL, **fields: Any
) -> None:
    answer = litellm.completion(
        model=f"openai/{model}", messages=messages(text), max_tokens=tokens, **options(**ask), **fields
    )
    told.text = answer.choices[0].message.content or ""
    told.finish = answer.choices[0].finish_reason
    told.usage = answer.usage.model_dump()
    told.headgate = getattr(answer, "headgate", None)
    told.more["texts"] = [choice.message.content for choice in answer.choices]
    told.more["tool_calls"] = [call.model_dump() for call in answer.choices[0].message.tool_calls or []]


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
    if usage:
        fields["stream_options"] = {"include_usage": True}
    stream = litellm.completion(
        model=f"openai/{MODEL}",
        messages=messages(text),
        max_tokens=tokens,
        stream=True,
        **options(**ask),
        **fields,
    )
    calls: dict[int, dict[str, str]] = {}
    for chunk in stream:
        if getattr(chunk, "usage", None):
            told.usage = chunk.usage.model_dump()
        for choice in chunk.choices:
            told.finish = choice.finish_reason or told.finish
            for call in choice.delta.tool_calls or []:
                seen = calls.setdefault(call.index, {"name": "", "arguments": ""})
                seen["name"] += call.function.name or ""
                seen["arguments"] += call.function.arguments or ""
            if choice.delta.content:
                told.text += choice.delta.content
                told.pieces += 1
        if stop_after is not None and told.pieces >= stop_after:
            stream.close()
            return
    told.more["tool_calls"] = list(calls.values())


def cancelled(told: Told, *, ask: dict[str, Any], tokens: int, stop_after: int) -> None:
    async def read(enough: asyncio.Event) -> None:
        stream = await litellm.acompletion(
            model=f"openai/{MODEL}",
            messages=messages("Hello"),
            max_tokens=tokens,
            stream=True,
            **options(**ask),
        )
        async for chunk in stream:
            told.pieces += bool(chunk.choices[0].delta.content)
            if told.pieces >= stop_after:
                enough.set()

    cancel_in_mid_stream(told, read)


def embeddings(told: Told, *, ask: dict[str, Any], texts: list[str]) -> None:
    answer = litellm.embedding(model=f"openai/{MODEL}", input=texts, **options(**ask))
    told.more["vectors"] = [len(one["embedding"]) for one in answer.data]


if __name__ == "__main__":
    serve({do.__name__: do for do in (whole, streamed, cancelled, embeddings)})
