"""openai-python, used as its own documentation shows. Runs unchanged with its lines 1, 2 and 3."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

from tests.clients.scripts.telling import Told, cancel_in_mid_stream, serve

MODEL = "headgate-simulated"


def client(url: str, key: str = "none", headers: dict[str, str] | None = None, **options: Any) -> openai.OpenAI:
    if headers:
        options["default_headers"] = headers
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, **options)


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
        completion = sdk.chat.completions.create(model=model, messages=messages(text), max_tokens=tokens, **fields)
    told.text = completion.choices[0].message.content or ""
    told.finish = completion.choices[0].finish_reason
    told.usage = completion.usage.model_dump() if completion.usage else None
    told.headgate = (completion.model_extra or {}).get("headgate")
    told.more["texts"] = [choice.message.content for choice in completion.choices]
    calls = completion.choices[0].message.tool_calls or []
    told.more["tool_calls"] = [call.model_dump() for call in calls]


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
    """With ``stop_after`` the loop is left after so many pieces, and the stream closed as ``with`` does it."""
    if usage:
        fields["stream_options"] = {"include_usage": True}
    calls: dict[int, dict[str, str]] = {}
    with (
        client(**ask) as sdk,
        sdk.chat.completions.create(
            model=MODEL, messages=messages(text), max_tokens=tokens, stream=True, **fields
        ) as stream,
    ):
        for chunk in stream:
            if chunk.usage is not None:
                told.usage = chunk.usage.model_dump()
                told.headgate = (chunk.model_extra or {}).get("headgate")
            if usage and not chunk.choices:
                continue
            choice = chunk.choices[0]  # as naive code has it: without usage every chunk must have a choice
            told.finish = choice.finish_reason or told.finish
            for call in choice.delta.tool_calls or []:
                seen = calls.setdefault(call.index, {"name": "", "arguments": ""})
                if call.function is not None:
                    seen["name"] += call.function.name or ""
                    seen["arguments"] += call.function.arguments or ""
            if choice.delta.content:
                told.text += choice.delta.content
                told.pieces += 1
            if stop_after is not None and told.pieces >= stop_after:
                break
    told.more["tool_calls"] = list(calls.values())


def cancelled(told: Told, *, ask: dict[str, Any], tokens: int, stop_after: int) -> None:
    async def read(enough: asyncio.Event) -> None:
        async with openai.AsyncOpenAI(base_url=f"{ask['url']}/v1", api_key="none") as sdk:
            stream = await sdk.chat.completions.create(
                model=MODEL, messages=messages("Hello"), max_tokens=tokens, stream=True
            )
            async with stream:
                async for chunk in stream:
                    told.pieces += bool(chunk.choices[0].delta.content)
                    if told.pieces >= stop_after:
                        enough.set()

    cancel_in_mid_stream(told, read)


def completion(told: Told, *, ask: dict[str, Any], prompts: list[str], tokens: int = 4) -> None:
    with client(**ask) as sdk:
        answer = sdk.completions.create(model=MODEL, prompt=prompts, max_tokens=tokens)
    told.more["texts"] = [choice.text for choice in answer.choices]


def response(told: Told, *, ask: dict[str, Any], tokens: int = 16) -> None:
    with client(**ask) as sdk:
        answer = sdk.responses.create(model=MODEL, input="Hello", max_output_tokens=tokens)
    told.text = answer.output_text
    told.finish = answer.status
    told.usage = answer.usage.model_dump() if answer.usage else None


def response_streamed(told: Told, *, ask: dict[str, Any], tokens: int = 16) -> None:
    with client(**ask) as sdk:
        for event in sdk.responses.create(model=MODEL, input="Hello", max_output_tokens=tokens, stream=True):
            if event.type == "response.output_text.delta":
                told.text += event.delta
                told.pieces += 1
            elif event.type in ("response.completed", "response.incomplete"):
                told.finish = event.type
            elif event.type == "error":
                told.more["error_event"] = {"code": event.code, "message": event.message}


def embeddings(told: Told, *, ask: dict[str, Any], texts: list[str]) -> None:
    with client(**ask) as sdk:
        answer = sdk.embeddings.create(model=MODEL, input=texts)
    told.more["vectors"] = [len(one.embedding) for one in answer.data]
    told.usage = answer.usage.model_dump()


def transcription(told: Told, *, ask: dict[str, Any]) -> None:
    with client(**ask) as sdk:
        answer = sdk.audio.transcriptions.create(model=MODEL, file=("sound.wav", b"RIFF" + bytes(20_000)))
    told.text = answer.text


if __name__ == "__main__":
    serve(
        {
            do.__name__: do
            for do in (
                *(models, whole, streamed, cancelled, completion),
                *(response, response_streamed, embeddings, transcription),
            )
        }
    )
