"""What goes through: the engine's bytes as they are, its tokens counted exactly, figures where they were asked for."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from tests.simulated import Engine
from tests.wire.client import CHAT, DONE, MODEL, Client, chat
from tests.wire.gateway import Gateway, gateway

PATHS = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages")
WITH_USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


def body(tokens: int = 12, *, stream: bool = True, **fields: Any) -> dict[str, Any]:
    """A request that each of these APIs takes."""
    return chat(tokens, stream=stream, prompt="Hello", input="Hello", max_output_tokens=tokens, **fields)


def _without_what_differs(stream: bytes) -> bytes:
    """The engine's ids and times differ from request to request; nothing else does."""
    stream = re.sub(rb'"(id|item_id)":"[a-zA-Z_]+[-_][^"]*"', b'"id":""', stream)
    return re.sub(rb'"(created|created_at)":\d+', b'"created":0', stream)


@pytest.mark.parametrize("target", ["/v1/chat/%63ompletions", f"http://a-name{CHAT}", f"{CHAT}?a=b"])
def test_however_its_path_is_written_a_generation_goes_to_the_engine(gate: Gateway, target: str) -> None:
    reply = gate.ask(body(stream=False), target)
    assert reply.status == 200
    assert reply.headers["x-headgate-engine"] == "e0"


@pytest.mark.parametrize("path", PATHS)
def test_stream_is_the_engines_byte_for_byte_but_for_the_final_comment(
    gate: Gateway, engine: Engine, path: str
) -> None:
    with Client(engine.port) as direct:
        expected = direct.ask(path, body())
    reply = gate.ask(body(), path)
    assert reply.figures is not None
    kept = [event for event in reply.events if not event.startswith(b": headgate ")]
    assert len(kept) == len(reply.events) - 1
    assert _without_what_differs(b"".join(kept)) == _without_what_differs(expected.body)
    last = reply.events.index(next(event for event in reply.events if event.startswith(b": headgate ")))
    assert last == len(reply.events) - (2 if DONE in reply.events else 1)


@pytest.mark.parametrize("path", PATHS[:2])
def test_usage_chunk_comes_to_those_who_asked_and_carries_the_figures(gate: Gateway, engine: Engine, path: str) -> None:
    with Client(engine.port) as direct:
        expected = direct.ask(path, body(**WITH_USAGE))
    reply = gate.ask(body(**WITH_USAGE), path)
    assert reply.figures is None, "once is enough"
    *chunks, last = reply.data
    figures = last.pop("headgate")
    assert last["choices"] == []
    assert last["usage"] == expected.data[-1]["usage"]
    assert figures["completion_tokens"] == 12
    assert figures["prompt_tokens"] == last["usage"]["prompt_tokens"]
    assert set(figures) == {
        *("prompt_tokens", "completion_tokens", "queue_ms", "ttft_ms", "latency_ms", "tokens_per_second")
    }
    assert [set(chunk) for chunk in chunks] == [set(chunk) for chunk in expected.data[:-1]]


@pytest.mark.parametrize("path", PATHS[:2])
def test_usage_chunk_does_not_come_to_those_who_did_not_ask(gate: Gateway, path: str) -> None:
    silent: list[dict[str, Any]] = [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}]
    for fields in silent:
        reply = gate.ask(body(**fields), path)
        assert all(chunk["choices"] and "usage" not in chunk for chunk in reply.data)
        assert reply.figures is not None
        assert reply.figures["completion_tokens"] == 12


def test_continuous_usage_passes_to_those_who_asked(gate: Gateway) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    reply = gate.ask(body(**options))
    assert [chunk["usage"]["completion_tokens"] for chunk in reply.data][-3:] == [11, 12, 12]


@pytest.mark.parametrize(
    ("final_event", "asked", "in_chunk", "in_comment"),
    [
        ("data", False, True, False),
        ("data", True, True, False),
        ("comment", True, False, True),
        ("comment", False, False, True),
        ("off", True, False, False),
        ("off", False, False, False),
    ],
)
def test_final_event_goes_where_the_setting_says(
    finals: dict[str, Gateway], final_event: str, asked: bool, in_chunk: bool, in_comment: bool
) -> None:
    reply = finals[final_event].ask(body(**(WITH_USAGE if asked else {})))
    assert ("headgate" in reply.data[-1]) is in_chunk
    assert (reply.figures is not None) is in_comment
    assert (reply.data[-1]["choices"] == []) is (asked or in_chunk)
    assert reply.events[-1] == DONE


def test_stream_that_has_no_usage_chunk_has_its_figures_in_a_comment(finals: dict[str, Gateway]) -> None:
    """With FINAL_EVENT=data they were nowhere."""
    assert finals["data"].ask(body(), "/v1/responses").figures is not None


@pytest.fixture(scope="module")
def finals(_engine: Engine) -> Any:
    """A gateway for each FINAL_EVENT."""
    with (
        gateway(_engine, "--final-event", "data") as data,
        gateway(_engine, "--final-event", "comment") as comment,
        gateway(_engine, "--final-event", "off") as off,
    ):
        yield {"data": data, "comment": comment, "off": off}


@pytest.mark.parametrize("path", PATHS)
def test_whole_reply_has_the_figures_beside_its_usage(gate: Gateway, engine: Engine, path: str) -> None:
    with Client(engine.port) as direct:
        expected = direct.ask(path, body(stream=False)).json
    told = gate.ask(body(stream=False), path).json
    figures = told.pop("headgate")
    assert figures["completion_tokens"] == 12
    assert set(told) == set(expected)
    assert told["usage"] == expected["usage"]


def test_final_event_off_leaves_whole_replies_alone(finals: dict[str, Gateway]) -> None:
    assert "headgate" not in finals["off"].ask(body(stream=False)).json


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_in_metrics_are_exactly_the_engines(gate: Gateway, engine: Engine, stream: bool) -> None:
    def tokens() -> list[float]:
        return [
            gate.metric("api_tokens_total", kind="completion", model=MODEL),
            gate.metric("api_tokens_total", kind="prompt", model=MODEL),
            gate.metric("api_tokens_total", kind="completion_estimated"),
        ]

    before, made = tokens(), engine.state()
    for path in PATHS:
        assert gate.ask(body(stream=stream), path).status == 200
    gate.until(active=0)
    told = engine.state()
    assert [now - then for now, then in zip(tokens(), before, strict=True)] == [
        told["generation_tokens"] - made["generation_tokens"],
        told["prompt_tokens"] - made["prompt_tokens"],
        0,
    ]


def test_generate_answers_flat_with_text_tokens_and_timings(gate: Gateway, engine: Engine) -> None:
    with Client(engine.port) as direct:
        expected = direct.ask("/v1/completions", body(stream=False)).json
    told = gate.ask({"prompt": "Hello", "max_tokens": 12}, "/generate").json
    assert told["text"] == expected["choices"][0]["text"]
    assert (told["model"], told["finish_reason"], told["completion_tokens"]) == (MODEL, "length", 12)
    assert told["latency_ms"] > 0
    assert "choices" not in told


def test_transcription_takes_a_slot_and_reads_its_form(gate: Gateway, engine: Engine) -> None:
    seen = engine.state()["requests_seen"]
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        for stream in ("true", "false"):
            form = {"model": MODEL, "stream": stream}
            reply = gate.http.post(path, data=form, files={"file": ("a.wav", bytes(20_000), "audio/wav")})
            assert reply.status_code == 200, reply.text
            assert (reply.headers["content-type"].startswith("text/event-stream")) is (stream == "true")
            assert ("data: [DONE]" in reply.text) is (stream == "true")
    assert engine.state()["requests_seen"] == seen + 4


@pytest.mark.parametrize(
    ("path", "fields", "sequences"),
    [
        ("/v1/embeddings", {"input": ["one", "two"]}, 2),
        ("/v1/score", {"text_1": "one", "text_2": "two"}, 1),
        ("/v1/score", {"text_1": "one", "text_2": ["two", "three"]}, 2),
        ("/score", {"text_1": "one", "text_2": ["two", "three"]}, 2),
        ("/v1/rerank", {"query": "one", "documents": ["two", "three", "four"]}, 3),
        ("/v2/rerank", {"query": "one", "documents": ["two", "three", "four"]}, 3),
        ("/rerank", {"query": "one", "documents": ["two", "three", "four"]}, 3),
        ("/classify", {"input": ["one", "two"]}, 2),
        ("/pooling", {"messages": [{"role": "user", "content": "one"}]}, 1),
    ],
)
def test_pooling_passes_and_weighs_what_it_is(gate: Gateway, path: str, fields: dict[str, Any], sequences: int) -> None:
    """All the documents of a request to rerank them were one slot's."""
    before = gate.metric("api_batch_size_sum")
    assert gate.ask({"model": MODEL, **fields}, path).status == 200
    assert gate.metric("api_batch_size_sum") == before + sequences


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/tokenize", {"prompt": "Hello"}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hello"}]}),
    ],
)
def test_side_calls_need_no_slot_while_all_are_busy(
    gate: Gateway, engine: Engine, path: str, fields: dict[str, Any]
) -> None:
    with gate.hold(4), Client(engine.port) as direct:
        reply = gate.ask({"model": MODEL, **fields}, path)
        assert reply.status == 200
        assert reply.json == direct.ask(path, {"model": MODEL, **fields}).json, "with nothing added"


def test_heads_carry_ids_queue_time_and_engine(gate: Gateway) -> None:
    reply = gate.ask(x_request_id="client-7")
    assert reply.headers["x-request-id"] == "client-7"
    assert reply.headers["x-headgate-engine"] == "e0"
    assert float(reply.headers["x-headgate-queue-ms"]) >= 0
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "client-7" not in str(reply.data[0]["id"]), "the engine has an id of ours, which is unique"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("model", [MODEL, "no-such-model"])
def test_anthropics_sdks_find_the_request_id_where_they_look(gate: Gateway, path: str, model: str) -> None:
    """They read `request-id`, and a programmer had no id to name."""
    reply = gate.ask(chat(model=model), path, x_request_id="client-7")
    assert reply.headers["request-id"] == reply.headers["x-request-id"] == "client-7"
    assert "request-id" not in gate.ask(x_request_id="client-7").headers
    if path == "/v1/messages" and model == MODEL:
        assert reply.headers["x-headgate-engine"] == "e0"


@pytest.mark.parametrize("given", ["a" * 129, "two words", "tab\there", "caf\u00e9", ""])
def test_request_id_that_is_unfit_for_a_header_or_a_log_is_replaced(gate: Gateway, given: str) -> None:
    assert gate.ask(x_request_id=given).headers["x-request-id"].startswith("hg-")


def test_openai_sdk_streams_whole_and_refused(gate: Gateway) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gate.port}/v1", api_key="none", max_retries=0) as sdk:
        messages: Any = [{"role": "user", "content": "Hello"}]
        whole = sdk.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 5
        with sdk.chat.completions.create(model=MODEL, messages=messages, max_tokens=5, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content
        with pytest.raises(openai.NotFoundError) as refused:
            sdk.chat.completions.create(model="another", messages=messages)
        assert refused.value.code == "not_found"
