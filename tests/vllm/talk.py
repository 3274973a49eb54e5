"""Clients as people have them: the openai SDK, its retries off, and what one stream came to."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import openai

from tests.vllm.running import MODEL, Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types.chat import ChatCompletionMessageParam

PATIENCE_S = 300.0
"""Of a client that shares two cores with vLLM: the SDK's own 5 s to connect pass while it reads four fast streams."""
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
TO_THE_END: dict[str, Any] = {"ignore_eos": True}
"""A random model may say that it is done at any word; with this it makes exactly ``max_tokens``."""


def sdk(gateway: Gateway) -> openai.OpenAI:
    """To be closed by whoever asks for it."""
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


@asynccontextmanager
async def async_sdk(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
    ) as client:
        yield client


@dataclass(slots=True)
class Told:
    """What one streamed chat came to, as the SDK told it."""

    first: asyncio.Event = field(default_factory=asyncio.Event)
    pieces: int = 0
    finish_reason: str | None = None
    completion_tokens: int | None = None
    error: openai.OpenAIError | None = None
    ended_s: float = 0.0

    @property
    def went_well(self) -> bool:
        return self.error is None and self.finish_reason is not None


async def follow(client: openai.AsyncOpenAI, max_tokens: int, told: Told | None = None, seed: int = 0) -> Told:
    """Stream a chat of exactly ``max_tokens`` to its end, however it ends; ``seed`` makes it unlike another's."""
    told = told or Told()
    try:
        async with await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=max_tokens,
            seed=seed,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=TO_THE_END,
        ) as stream:
            async for chunk in stream:
                if chunk.usage is not None:
                    told.completion_tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    told.finish_reason = choice.finish_reason or told.finish_reason
                    if choice.delta.content:
                        told.pieces += 1
                        told.first.set()
    except openai.OpenAIError as error:
        told.error = error
    finally:
        told.ended_s = time.monotonic()
        told.first.set()
    return told


async def start_streams(client: openai.AsyncOpenAI, count: int, max_tokens: int) -> list[asyncio.Task[Told]]:
    """So many streams, each with its first words already here."""
    tolds = [Told() for _ in range(count)]
    tasks = [asyncio.create_task(follow(client, max_tokens, told)) for told in tolds]
    for told in tolds:
        await told.first.wait()
    assert not any(task.done() for task in tasks), [told.error for told in tolds]
    return tasks
