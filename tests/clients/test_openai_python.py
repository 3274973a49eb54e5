"""openai-python's other doors, in each of its three lines."""

from __future__ import annotations

import pytest

from tests.clients.running import OPENAI, Client
from tests.simulated import Engine, simulated_engine
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway

pytestmark = [pytest.mark.clients, pytest.mark.parametrize("client", OPENAI, ids=str, indirect=True)]


def test_figures_are_in_the_usage_chunk_and_beside_usage(client: Client, gate: Gateway) -> None:
    for do, fields in (("streamed", {"usage": True}), ("whole", {})):
        told = client.ask(gate, do, tokens=5, **fields).well
        assert told.headgate is not None
        assert told.headgate["completion_tokens"] == 5
        assert set(told.headgate) >= {"queue_ms", "ttft_ms", "latency_ms", "tokens_per_second"}


def test_several_prompts_are_several_completions(client: Client, gate: Gateway) -> None:
    texts = client.ask(gate, "completion", prompts=["one", "two"], tokens=5).well.more["texts"]
    assert [len(text.split()) for text in texts] == [5, 5]


def test_responses_whole_and_streamed(client: Client, gate: Gateway) -> None:
    whole = client.ask(gate, "response", tokens=16).well
    streamed = client.ask(gate, "response_streamed", tokens=16).well
    assert whole.text == streamed.text
    assert len(whole.text.split()) == streamed.pieces == 16
    assert streamed.finish is not None


def test_broken_response_tells_its_error(client: Client, gate: Gateway, engine: Engine) -> None:
    """In this API an error event need not raise: a loop that only looks at deltas sees a stream that ends early."""
    engine.faults({"kind": "cut", "after_events": 12})
    told = client.ask(gate, "response_streamed", tokens=50)
    assert told.finish is None
    said = told.error["text"] if told.error else told.more["error_event"]["message"]
    assert "cut short" in said


def test_transcription(client: Client, gate: Gateway) -> None:
    assert client.ask(gate, "transcription").well.text


def test_long_whole_answer_that_breaks_after_its_head_is_asked_for_again(client: Client) -> None:
    """Over 256 KiB it is passed on as it comes; the SDK takes the cut for a lost connection."""
    with simulated_engine(*ROOMY, "--speed", "200") as engine, gateway(engine) as gate:
        engine.faults({"kind": "cut"})
        told = client.ask(gate, "whole", tokens=4000, n=40, note_pauses=True).well
        assert len(told.more["texts"]) == 40
        assert engine.state()["requests_seen"] == 2
        assert len(told.slept) == 1
        assert gate.metric("api_requests_total", status="200", reason="engine_failed") == 1
