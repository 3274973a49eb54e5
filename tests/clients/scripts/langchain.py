"""LangChain's two chat models, ChatOpenAI and ChatAnthropic: which one, ``ask["by"]`` says."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.clients.scripts.telling import Told, cancel_in_mid_stream, serve

MODEL = "headgate-simulated"


def chat(by: str, url: str, tokens: int, key: str = "none", name: str = MODEL, **options: Any) -> Any:
    if headers := options.pop("headers", None):
        options["default_headers"] = headers
    if by == "anthropic":
        return ChatAnthropic(model=name, base_url=url, api_key=key, max_tokens=tokens, **options)
    return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key=key, max_tokens=tokens, **options)


def whole(
    told: Told, *, ask: dict[str, Any], tokens: int = 4, text: str = "Hello", model: str = MODEL, **fields: Any
) -> None:
    message = chat(tokens=tokens, name=model, **ask).invoke(text, **fields)
    told.text = message.text
    told.finish = _finish(message.response_metadata)
    told.usage = message.usage_metadata
    told.headgate = message.response_metadata.get("headgate")
    told.more["tool_calls"] = message.tool_calls


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
    """``usage`` is ``stream_usage``, which LangChain leaves off where the base URL isn't OpenAI's own."""
    options: Any = {"stream_usage": True} if usage else {}
    chunks = chat(tokens=tokens, **ask, **options).stream(text, **fields)
    gathered: AIMessageChunk | None = None
    try:
        for chunk in chunks:
            gathered = chunk if gathered is None else gathered + chunk
            told.text += chunk.text
            told.pieces += bool(chunk.text)
            told.finish = _finish(chunk.response_metadata) or told.finish
            if stop_after is not None and told.pieces >= stop_after:
                break
    finally:
        chunks.close()
    assert gathered is not None
    told.usage = dict(gathered.usage_metadata) if gathered.usage_metadata else None
    told.more["tool_calls"] = gathered.tool_calls


def cancelled(told: Told, *, ask: dict[str, Any], tokens: int, stop_after: int) -> None:
    # With its default a cancellation can be lost, and the stream is read on to its end: the wait for each chunk is
    # bounded by asyncio.wait_for, which on Python 3.11 swallows one that comes together with a chunk (bpo-37658).
    options: Any = {"stream_chunk_timeout": None} if ask["by"] == "openai" else {}

    async def read(enough: asyncio.Event) -> None:
        async for chunk in chat(tokens=tokens, **ask, **options).astream("Hello"):
            told.pieces += bool(chunk.text)
            if told.pieces >= stop_after:
                enough.set()

    cancel_in_mid_stream(told, read)


def embeddings(told: Told, *, ask: dict[str, Any], texts: list[str], **options: Any) -> None:
    embed = OpenAIEmbeddings(model=MODEL, base_url=f"{ask['url']}/v1", api_key="none", **options)
    told.more["vectors"] = [len(vector) for vector in embed.embed_documents(texts)]


def _finish(metadata: dict[str, Any]) -> str | None:
    finish = metadata.get("finish_reason") or metadata.get("stop_reason")
    return str(finish) if finish else None


if __name__ == "__main__":
    serve({do.__name__: do for do in (whole, streamed, cancelled, embeddings)})
