"""A client that reads slowly, or not at all: the engine waits, the others don't, and the slot comes back."""

from __future__ import annotations

import time

from tests.simulated import Engine
from tests.wire.client import CHAT, DONE, chat
from tests.wire.gateway import DEADLINE_S, Gateway, gateway
from tests.wire.scripted import JSON, scripted_engine, sized

MIB = 1024 * 1024
BLOCKS = [{"kind": "giant", "after_events": 1 + i, "bytes": MIB} for i in range(48)]
"""48 MiB in one answer: more than all sockets' buffers between an engine and its client take."""


def test_engine_is_paused_while_a_client_reads_nothing_and_others_go_on(gate: Gateway, engine: Engine) -> None:
    """Nobody told the engine's side that the client was paused: the gateway held the whole answer in its memory."""
    before = gate.status()["process"]["resident_bytes"]
    engine.faults(*BLOCKS)
    with gate.client(receive_bytes=4096) as slow:
        slow.post(CHAT, chat(60)).until_events(1)
        engine.state(inflight=0)  # all tokens are made; what is left is to be read
        assert [gate.ask().status for _ in range(20)] == [200] * 20
        assert gate.status()["process"]["resident_bytes"] - before < 8 * MIB
        assert gate.status()["slots"]["active"] == 1
        assert engine.state()["open"] == 1, "the engine still has what nobody reads"
        reply = slow.reply()
    # A simulated engine joins the tokens that a slow reader has missed, so that fewer blocks than asked for come.
    assert len(reply.text) > 8 * MIB
    assert reply.figures is not None
    assert reply.figures["completion_tokens"] == 60
    assert reply.ended
    assert DONE in reply.events


def test_slot_is_free_once_the_engines_body_has_ended_though_the_client_has_read_nothing(
    gate: Gateway, engine: Engine
) -> None:
    engine.faults({"kind": "giant", "after_events": 1, "bytes": 150_000})
    with gate.client(receive_bytes=4096) as slow:
        answered = gate.counted(status="200")
        slow.post(CHAT, chat(3))
        gate.until_counted(answered + 1, route=CHAT, status="200")
        gate.until(active=0)
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


def test_slow_reader_that_reads_is_not_dropped(engine: Engine) -> None:
    """Paused twice with more in the buffer the second time, it looked as if it had taken nothing."""
    with gateway(engine, "--send-stall-s", "0.2") as gate:
        engine.faults(*BLOCKS[:16])
        with gate.client(receive_bytes=65536) as slow:
            # Reads all the while, a little at a time: 16 MiB in some hundred pieces.
            slow.post(CHAT, chat(30))
            reply = slow.reply()
        assert reply.ended
        assert len(reply.text) > 4 * MIB


def test_client_that_asks_for_more_and_more_and_reads_nothing_is_dropped() -> None:
    """Each new request ended the watch over the answers before it, and was answered with no regard to what was unread:
    400 of them took 90 MiB of the gateway, and a stream after a few was held whole.
    """
    whole = b'{"choices":[{"message":{"content":"' + b"a" * 240_000 + b'"},"finish_reason":"stop"}]}'
    with scripted_engine() as engine, gateway(engine.url, "--send-stall-s", "0.3") as gate:
        before = gate.status()["process"]["resident_bytes"]
        answered = gate.counted(status="200")
        deadline = time.monotonic() + DEADLINE_S
        with gate.client(receive_bytes=4096) as client:
            for asked in range(1, 61):
                engine.say(JSON + sized(whole))
                client.post(CHAT, chat(stream=False))
                until = answered + asked
                while gate.counted(status="200") < until and not client.dropped():
                    assert time.monotonic() < deadline
                if client.dropped():
                    break
            assert client.dropped()
        assert gate.status()["process"]["resident_bytes"] - before < 6 * MIB
