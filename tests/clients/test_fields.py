"""What a client says beyond the plain case reaches the engine, and what the engine answers to it reaches the client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.running import ANTHROPIC, KINDS, LANGCHAIN_ANTHROPIC, LANGCHAIN_OPENAI, Client
from tests.wire.client import MODEL
from tests.wire.gateway import gateway
from tests.wire.scripted import JSON, SSE, Scripted, chunked, scripted_engine, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.gateway import Gateway

pytestmark = pytest.mark.clients

SPEAK_OPENAI = [kind for kind in KINDS if not kind.anthropic]
WANTED = {"city": "Ghent"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}}
ANTHROPIC_TOOL = {"name": "weather", "description": "Of a city.", "input_schema": PARAMETERS}


def tools(client: Client) -> list[dict[str, Any]]:
    return [ANTHROPIC_TOOL if client.kind.anthropic else TOOL]


def called(calls: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The one tool that was called, and with what, in whichever shape the client tells it."""
    (call,) = calls
    inner = call.get("function", call)
    given = inner.get("arguments") or inner.get("args") or inner.get("input")
    return inner["name"], json.loads(given) if isinstance(given, str) else given


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[Gateway, Scripted]]:
    """A gateway in front of an engine that answers with the bytes that it is given."""
    with scripted_engine() as engine, gateway(engine.url) as gate:
        yield gate, engine


def test_tools_are_passed_on(client: Client, gate: Gateway) -> None:
    """The simulated engine reads them as part of the prompt."""
    plain, more = (client.ask(gate, "whole", **fields).well.usage or {} for fields in ({}, {"tools": tools(client)}))
    prompt = "prompt_tokens" if "prompt_tokens" in plain else "input_tokens"
    assert more[prompt] > plain[prompt] + 10


def test_called_tool_of_a_whole_answer(client: Client, scripted: tuple[Gateway, Scripted]) -> None:
    gate, engine = scripted
    if client.kind.anthropic:
        block = {"type": "tool_use", "id": "t1", "name": "weather", "input": WANTED}
        answer: dict[str, Any] = {"id": "m1", "type": "message", "role": "assistant", "model": MODEL}
        answer |= {"content": [block], "stop_reason": "tool_use", "stop_sequence": None}
        answer |= {"usage": {"input_tokens": 9, "output_tokens": 5}}
    else:
        function = {"name": "weather", "arguments": json.dumps(WANTED)}
        call = {"id": "t1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": MODEL}
        answer |= {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}]}
        answer |= {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}
    engine.say(JSON + sized(json.dumps(answer).encode()))
    told = client.ask(gate, "whole", tools=tools(client)).well
    assert called(told.more["tool_calls"]) == ("weather", WANTED)
    sent = json.loads(engine.requests[-1])
    assert "weather" in json.dumps(sent["tools"])


def test_called_tool_of_a_stream(client: Client, scripted: tuple[Gateway, Scripted]) -> None:
    gate, engine = scripted
    pieces = ['{"ci', 'ty": "Gh', 'ent"}']
    engine.say(SSE + chunked(*(_anthropic_call(pieces) if client.kind.anthropic else _openai_call(pieces))))
    told = client.ask(gate, "streamed", tools=tools(client)).well
    assert called(told.more["tool_calls"]) == ("weather", WANTED)
    assert told.finish in ("tool_calls", "tool_use")


def _openai_call(pieces: list[str]) -> list[bytes]:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + json.dumps({**head, "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"

    def call(function: dict[str, str], **more: str) -> bytes:
        return chunk({"tool_calls": [{"index": 0, **more, "function": function}]})

    return [
        chunk({"role": "assistant", "content": ""}),
        call({"name": "weather", "arguments": ""}, id="t1", type="function"),
        *(call({"arguments": piece}) for piece in pieces),
        chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]


def _anthropic_call(pieces: list[str]) -> list[bytes]:
    def event(name: str, **fields: Any) -> bytes:
        return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()

    message: dict[str, Any] = {"id": "m1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 0}}
    block = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    return [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block=block),
        *(
            event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": piece})
            for piece in pieces
        ),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 5}),
        event("message_stop"),
    ]


@pytest.mark.parametrize("client", [k for k in SPEAK_OPENAI if k is not LANGCHAIN_OPENAI], ids=str, indirect=True)
def test_two_answers_at_once(client: Client, gate: Gateway) -> None:
    """LangChain's chat model gives back the first one only."""
    told = client.ask(gate, "whole", n=2).well
    first, second = told.more["texts"]
    assert (len(first.split()), len(second.split())) == (4, 4)
    assert first != second


@pytest.mark.parametrize("client", SPEAK_OPENAI, ids=str, indirect=True)
def test_embeddings(client: Client, gate: Gateway) -> None:
    # Without this LangChain counts tokens by itself, for which it fetches a vocabulary of OpenAI's.
    options = {"check_embedding_ctx_length": False} if client.kind is LANGCHAIN_OPENAI else {}
    first, second = client.ask(gate, "embeddings", texts=["one", "two"], **options).well.more["vectors"]
    assert first == second > 0


@pytest.mark.parametrize(
    "client",
    [k for k in KINDS if k.name.startswith("openai") or k.name == "node"] + [ANTHROPIC],
    ids=str,
    indirect=True,
)
def test_models_are_listed(client: Client, gate: Gateway) -> None:
    """By Anthropic's SDK too, though the list has OpenAI's shape."""
    told = client.ask(gate, "models").well
    assert (told.more["models"], told.more["one"]) == ([MODEL], MODEL)


@pytest.mark.parametrize("client", [ANTHROPIC, LANGCHAIN_ANTHROPIC], ids=str, indirect=True)
def test_message_carries_the_id_that_the_log_has(client: Client, gate: Gateway) -> None:
    told = client.ask(gate, "whole", model="no-such-model")
    if client.kind is ANTHROPIC:
        assert gate.logged(told.raised["request_id"])["reason"] == "not_found"
    assert client.ask(gate, "whole").well.headgate
