"""A client that leaves, in every way, at every stage: its slot is free, the engine's work aborted, the books right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, Client, chat, request
from tests.wire.gateway import Gateway, gateway

LONG = 4000
WAYS: dict[str, Callable[[Client], None]] = {
    "close": Client.close,
    "reset": Client.reset,
    "half_close": Client.half_close,
}
ways = pytest.mark.parametrize("way", WAYS)


class Books:
    """What has been counted since this was made."""

    def __init__(self, gate: Gateway) -> None:
        self._gate = gate
        self._before = {stage: self._cancelled(stage) for stage in ("arriving", "queued", "waiting_first", "streaming")}
        self._left = gate.counted(status="499", reason="client_left")

    def _cancelled(self, stage: str) -> float:
        return self._gate.metric("api_cancelled_total", stage=stage)

    def until_left(self, stage: str, count: int = 1) -> None:
        """Until so many clients are counted as having left, all at this stage."""
        self._gate.until_counted(self._before[stage] + count, "api_cancelled_total", stage=stage)
        self._gate.until_counted(self._left + count, route=CHAT, status="499", reason="client_left")
        others = {name: self._cancelled(name) - was for name, was in self._before.items() if name != stage}
        assert not any(others.values()), others


@ways
def test_slot_is_returned_when_client_leaves_while_queued(gate: Gateway, engine: Engine, way: str) -> None:
    books = Books(gate)
    with gate.hold(4), gate.client() as leaving:
        seen = engine.state()["requests_seen"]
        leaving.post(CHAT, chat())
        gate.until(active=4, queued=1)
        WAYS[way](leaving)
        gate.until(active=4, queued=0)
        books.until_left("queued")
        assert engine.state()["requests_seen"] == seen, "it never reached the engine"


@ways
def test_slot_is_returned_when_a_queued_client_with_a_second_request_in_its_buffer_leaves(
    gate: Gateway, engine: Engine, way: str
) -> None:
    """uvicorn stops reading while a pipelined request waits, and then sees neither close nor reset."""
    books = Books(gate)
    with gate.hold(4), gate.client() as leaving:
        leaving.send(request(CHAT, chat()) * 2)
        gate.until(active=4, queued=1)
        leaving.send(request(CHAT, chat()) * 2)
        WAYS[way](leaving)
        gate.until(active=4, queued=0)
        books.until_left("queued")


@ways
def test_slot_is_returned_when_a_queued_client_with_a_large_body_leaves(gate: Gateway, way: str) -> None:
    """Over 64 KiB uvicorn stops reading until somebody asks for the body."""
    books = Books(gate)
    with gate.hold(4), gate.client() as leaving:
        leaving.post(CHAT, chat(text="x" * 300_000))
        gate.until(active=4, queued=1)
        WAYS[way](leaving)
        gate.until(active=4, queued=0)
        books.until_left("queued")


@pytest.fixture(scope="module")
def slow_to_begin() -> Iterator[tuple[Gateway, Engine]]:
    """65,000 tokens of prompt at 0.3 ms each: the prefill takes longer than a test."""
    flags = ("--max-model-len", "65536", "--max-num-batched-tokens", "8", "--num-gpu-blocks", "8192")
    with simulated_engine(*flags) as engine, gateway(engine, "--max-active", "2") as gate:
        yield gate, engine


@ways
@pytest.mark.parametrize("stream", [True, False])
def test_engine_is_aborted_when_client_leaves_before_the_first_byte(
    slow_to_begin: tuple[Gateway, Engine], way: str, stream: bool
) -> None:
    gate, engine = slow_to_begin
    books = Books(gate)
    before = engine.state(inflight=0, open=0)["aborted"]
    with gate.client() as leaving:
        leaving.post(CHAT, chat(stream=stream, text="word" * 40_000))
        engine.state(running=1)
        WAYS[way](leaving)
        engine.state(inflight=0, open=0, aborted=before + 1)
        gate.until(active=0)
        books.until_left("waiting_first")


@ways
def test_engine_is_aborted_within_a_few_events_when_client_leaves_mid_stream(
    gate: Gateway, engine: Engine, way: str
) -> None:
    books = Books(gate)
    before = engine.state()
    with gate.client() as leaving:
        leaving.post(CHAT, chat(LONG)).until_events(5)
        WAYS[way](leaving)
        after = engine.state(inflight=0, open=0, aborted=before["aborted"] + 1)
    # Nothing but a test's own slowness lies between the leaving and the abort; the answer had 4,000 tokens.
    assert after["generation_tokens"] - before["generation_tokens"] < LONG / 4
    gate.until(active=0)
    books.until_left("streaming")


@ways
def test_engine_is_aborted_when_a_streaming_client_with_a_second_request_in_its_buffer_leaves(
    gate: Gateway, engine: Engine, way: str
) -> None:
    books = Books(gate)
    before = engine.state()
    with gate.client() as leaving:
        leaving.send(request(CHAT, chat(LONG)) + request(CHAT, chat(LONG)))
        leaving.until_events(2)
        leaving.send(request(CHAT, chat(LONG)))
        WAYS[way](leaving)
        after = engine.state(inflight=0, open=0, aborted=before["aborted"] + 1)
    assert after["requests_seen"] - before["requests_seen"] == 1, "the second one was never taken"
    gate.until(active=0)
    books.until_left("streaming")


@ways
def test_engine_is_aborted_when_client_leaves_a_whole_reply(gate: Gateway, engine: Engine, way: str) -> None:
    books = Books(gate)
    before = engine.state()
    with gate.client() as leaving:
        leaving.post(CHAT, chat(LONG, stream=False))
        engine.state(running=1)
        WAYS[way](leaving)
        engine.state(inflight=0, open=0, aborted=before["aborted"] + 1)
    gate.until(active=0)
    books.until_left("waiting_first")


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
def test_client_that_leaves_while_it_sends_its_body_is_counted(gate: Gateway, engine: Engine, way: str) -> None:
    """It was in no book at all: neither a request nor a client that left."""
    books = Books(gate)
    seen = engine.state()["requests_seen"]
    with gate.client() as leaving:
        leaving.send(request(CHAT, chat(text="x" * 1000))[:-500])
        WAYS[way](leaving)
        books.until_left("arriving")
    assert engine.state()["requests_seen"] == seen


def test_client_that_sends_and_resets_in_one_breath_is_counted(gate: Gateway, engine: Engine) -> None:
    """Where request and reset came in one turn of the loop, the request was in no book."""
    left = gate.counted(status="499")
    for _ in range(20):
        with gate.client() as leaving:
            leaving.post(CHAT, chat(LONG))
            leaving.reset()
    gate.until_counted(left + 20, route=CHAT, status="499", reason="client_left")
    engine.state(inflight=0, open=0)


def test_half_closed_client_that_reads_nothing_gives_its_slot_back(engine: Engine) -> None:
    """Its transport waits for the buffer to be read before it says that the connection is lost: it never was."""
    with gateway(engine, "--max-active", "1", "--send-stall-s", "3600") as gate:
        engine.faults(*({"kind": "giant", "after_events": 1, "bytes": 4_000_000} for _ in range(3)))
        with gate.client(receive_bytes=4096) as leaving:
            leaving.post(CHAT, chat(LONG)).until_events(1)
            gate.until(active=1)
            leaving.half_close()
            gate.until(active=0)
            engine.state(inflight=0, open=0)


def test_cancelled_stream_is_counted_from_its_events_and_marked_estimated(gate: Gateway, engine: Engine) -> None:
    estimated = gate.metric("api_tokens_total", kind="completion_estimated")
    exact = gate.metric("api_tokens_total", kind="completion")
    with gate.client() as leaving:
        seen = leaving.post(CHAT, chat(LONG), x_request_id="leaves").until_events(10).body.count(b"\n\n")
        leaving.close()
        engine.state(inflight=0)
    line = gate.logged("leaves")
    assert (line["reason"], line["estimated"]) == ("client_left", True)
    assert line["completion_tokens"] >= seen
    gate.until_counted(estimated + line["completion_tokens"], "api_tokens_total", kind="completion_estimated")
    assert gate.metric("api_tokens_total", kind="completion") == exact


def test_cancelled_message_is_counted_from_its_events(gate: Gateway, engine: Engine) -> None:
    """`message_start` says output_tokens 0, which was taken for the engine's own final word."""
    with gate.client() as leaving:
        leaving.post("/v1/messages", chat(LONG), x_request_id="leaves-message").until_events(10)
        leaving.close()
        engine.state(inflight=0)
    line = gate.logged("leaves-message")
    assert line["estimated"] is True
    assert line["completion_tokens"] >= 5
    assert line["prompt_tokens"] > 0, json.dumps(line)
