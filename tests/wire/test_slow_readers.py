"""A client that reads slowly, or not at all: the engine waits, the others don't, and the slot comes back."""

from __future__ import annotations

import pytest

from tests.simulated import Engine
from tests.wire.client import CHAT, DONE, chat
from tests.wire.gateway import Gateway, gateway, wait_until

MIB = 1024 * 1024
BLOCKS = [{"kind": "giant", "after_events": 1 + i, "bytes": MIB} for i in range(48)]
"""48 MiB in one answer: more than all sockets' buffers between an engine and its client take."""


def events_relayed(gate: Gateway) -> float:
    return gate.metric("api_inter_token_latency_seconds_count")


def test_engine_is_paused_while_a_client_reads_nothing_and_others_go_on(gate: Gateway, engine: Engine) -> None:
    """Nobody told the engine's side that the client was paused: the gateway held the whole answer in its memory."""
    before = gate.status()["process"]["resident_bytes"]
    engine.faults(*BLOCKS)
    with gate.client(receive_bytes=4096) as slow:
        slow.post(CHAT, chat(60)).until_events(1)
        engine.state(inflight=0)  # all tokens are made; what is left is to be read
        assert [gate.ask().status for _ in range(20)] == [200] * 20
        assert gate.status()["process"]["resident_bytes"] - before < 16 * MIB
        assert gate.status()["slots"]["active"] == 1
        assert engine.state()["open"] == 1, "the engine still has what nobody reads"
        reply = slow.reply()
    assert len(reply.text) > 48 * MIB
    assert reply.ended
    assert reply.events[-1] == DONE


def test_slot_is_free_once_the_engines_body_has_ended_though_the_client_has_read_nothing(
    gate: Gateway, engine: Engine
) -> None:
    engine.faults({"kind": "giant", "after_events": 1, "bytes": 150_000})
    with gate.client(receive_bytes=4096) as slow:
        slow.post(CHAT, chat(3))
        gate.until_counted(gate.counted(status="200"), route=CHAT, status="200")
        engine.state(requests_seen=engine.state()["requests_seen"])
        wait_until(lambda: gate.requests() and gate.status()["slots"]["active"] == 0, "the slot is free")
        engine.state(open=0, inflight=0)
        reply = slow.reply()
        assert len(reply.text) > 150_000
        assert reply.events[-1] == DONE


def test_reader_that_takes_nothing_is_dropped(engine: Engine) -> None:
    with gateway(engine, "--send-stall-s", "0.3") as gate:
        engine.faults(*BLOCKS)
        with gate.client(receive_bytes=4096) as slow:
            slow.post(CHAT, chat(60)).until_events(1)
            gate.until(active=0)
            engine.state(open=0, inflight=0)
            gate.until_counted(1, "api_cancelled_total", stage="streaming")
            assert gate.counted(status="499", reason="client_left") == 1
            assert not slow.reply().ended


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_reader_that_takes_nothing_of_an_ended_answer_is_dropped(engine: Engine, version: str) -> None:
    """With `connection: close` the transport was closing already, and was then kept for ever."""
    with gateway(engine, "--send-stall-s", "0.3", "--max-active", "200") as gate:
        with gate.client(receive_bytes=4096) as slow:
            headers = {"connection": "close"}
            body = chat(300, stream=False, n=100)
            from tests.wire.client import request

            slow.send(request(CHAT, body, headers, version=version))
            gate.until_counted(1, route=CHAT, status="200")
            wait_until(lambda: _sockets(gate) == 1, "its connection is closed; the other one asks this")
            assert not slow.reply().ended


def test_slow_reader_that_reads_is_not_dropped(engine: Engine) -> None:
    """Paused twice with more in the buffer the second time, it looked as if it had taken nothing."""
    with gateway(engine, "--send-stall-s", "0.2") as gate:
        engine.faults(*BLOCKS[:16])
        with gate.client(receive_bytes=65536) as slow:
            # Reads all the while, a little at a time: 16 MiB in some hundred pieces.
            slow.post(CHAT, chat(30))
            reply = slow.reply()
        assert reply.ended
        assert len(reply.text) > 16 * MIB


def _sockets(gate: Gateway) -> int:
    """Connections to the gateway's port that it has not closed."""
    with open(f"/proc/{gate.process.pid}/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return sum(row[1].endswith(f":{gate.port:04X}") and row[3] == "01" for row in rows)
