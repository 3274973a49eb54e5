"""The cap holds at the engine, the line is bounded, and who finds no place is told so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, Reply, chat
from tests.wire.gateway import Gateway, gateway, wait_until


def burst(gate: Gateway, count: int, **fields: Any) -> list[Reply]:
    """So many chats at once, each read to its end."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda i: gate.ask(chat(10, text=f"Hello {i}", **fields)), range(count)))


@pytest.mark.parametrize("stream", [True, False])
def test_engine_never_sees_more_than_max_active_in_a_burst(stream: bool) -> None:
    with simulated_engine() as engine, gateway(engine, "--max-active", "3", "--queue-max", "100") as gate:
        replies = burst(gate, 40, stream=stream)
        assert [reply.status for reply in replies] == [200] * 40
        assert all(reply.ended for reply in replies)
        state = engine.state(inflight=0)
        assert state["max_inflight_seen"] == 3, "all slots were used, and no more"
        assert state["max_open_seen"] == 3
        gate.until(active=0, queued=0)
        assert gate.counted(status="200", reason="ok") == 40


def test_line_is_bounded_and_the_rest_is_refused_with_queue_full(gate: Gateway, engine: Engine) -> None:
    with gate.hold(4) as held, ExitStack() as line:
        waiting = [line.enter_context(gate.client()).post(CHAT, chat(2)) for _ in range(8)]
        gate.until(active=4, queued=8)
        refused = burst(gate, 5)
        assert {reply.status for reply in refused} == {429}
        assert {reply.headers["x-headgate-reason"] for reply in refused} == {"queue_full"}
        assert gate.status()["queue"]["depth"] == 8
        assert engine.state()["max_inflight_seen"] <= 4
        held.close()
        assert [client.reply().status for client in waiting] == [200] * 8


def test_reject_mode_refuses_at_once_when_no_slot_is_free(engine: Engine) -> None:
    with gateway(engine, "--max-active", "2", "--queue-mode", "reject") as gate:
        with gate.hold(2):
            refused = gate.ask()
            assert (refused.status, refused.error["code"]) == (429, "slots_busy")
            assert gate.status()["queue"]["depth"] == 0
        gate.until(active=0)
        assert gate.ask().status == 200


def test_who_waits_for_too_long_is_refused_with_queue_timeout(engine: Engine) -> None:
    with gateway(engine, "--max-active", "1", "--queue-timeout-s", "0.2") as gate, gate.hold(1):
        refused = gate.ask()
        assert (refused.status, refused.error["code"]) == (503, "queue_timeout")
        gate.until(queued=0)


def test_bytes_that_wait_are_bounded(engine: Engine) -> None:
    with (
        gateway(engine, "--max-active", "1", "--queue-max-bytes", "10kB") as gate,
        gate.hold(1),
        gate.client() as small,
    ):
        small.post(CHAT, chat(2, text="a" * 8000))
        gate.until(queued=1)
        refused = gate.ask(chat(2, text="b" * 8000))
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert "bytes" in refused.error["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 3}),
        ("/v1/completions", {"prompt": ["one", "two", "three"]}),
        ("/v1/completions", {"prompt": [[1, 2], [3], [4]]}),
    ],
)
def test_a_request_weighs_as_many_slots_as_it_makes_sequences(
    gate: Gateway, engine: Engine, path: str, fields: dict[str, Any]
) -> None:
    with gate.client() as heavy, gate.client() as other, gate.client() as third:
        heavy.post(path, chat(4000, **fields)).until_events(1)
        gate.until(active=3)
        other.post(CHAT, chat(4000)).until_events(1)
        third.post(CHAT, chat(1))
        gate.until(active=4, queued=1)
        assert engine.state()["running"] == 4
        heavy.close()
        assert third.reply().status == 200


def test_a_request_heavier_than_the_whole_gate_runs_alone(gate: Gateway, engine: Engine) -> None:
    with gate.client() as giant, gate.client() as other:
        giant.post(CHAT, chat(2000, n=100)).until_events(1)
        gate.until(active=4)
        other.post(CHAT, chat(1))
        gate.until(active=4, queued=1)
        giant.close()
        assert other.reply().status == 200


def test_no_engine_within_the_wake_timeout_is_engine_unavailable() -> None:
    with gateway("http://127.0.0.1:9", "--wake-timeout-s", "0.3", ready=False) as gate:
        refused = gate.ask()
        assert (refused.status, refused.error["code"]) == (503, "engine_unavailable")
        assert gate.get("/ready").status_code == 503
        assert gate.get("/health").status_code == 200


def test_engine_that_refuses_to_start_is_engine_unavailable() -> None:
    fault = """--fault '{"kind":"refuse_to_start","message":"no such weights"}'"""
    with gateway(None, "--wake-timeout-s", "0.3", "--engine-args", fault, ready=False) as gate:
        refused = gate.ask()
        assert (refused.status, refused.error["code"]) == (503, "engine_unavailable")
        wait_until(lambda: "no such weights" in gate.get("/status").text, "the engine's last words are in /status")


def test_slots_are_the_engines_own_batch_where_nothing_is_set() -> None:
    with gateway(None, "--engine-args", "--max-num-seqs 5 --load-s 0") as gate:
        assert gate.status()["slots"]["max_active"] == 5
