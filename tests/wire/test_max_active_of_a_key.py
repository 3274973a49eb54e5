"""``max_active`` of a key from outside: it waits for itself, others don't wait for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulated import Engine
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, wait_until
from tests.wire.test_keys_file import KeysFile, ask, keyed


@pytest.fixture
def keys(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.toml")


def held_by(gate: Gateway, name: str) -> int:
    return sum(each["weight"] for each in gate.status()["slots"]["held"] if each["key"] == name)


def test_a_key_at_its_cap_waits_while_others_are_served(engine: Engine, keys: KeysFile) -> None:
    capped, other = keys.add("capped", max_active=2), keys.add("other-one")
    with keyed(engine, keys, "--max-active", "8") as gate:
        clients = [gate.client().post(CHAT, chat(4000), x_api_key=capped) for _ in range(5)]
        try:
            gate.until(active=2, queued=3)
            assert held_by(gate, "capped") == 2
            assert ask(gate, other).figures is not None
            waited = gate.ask(chat(), x_api_key=other)
            assert float(waited.headers["x-headgate-queue-ms"]) < 1000
            seen = gate.status()
            assert seen["queue"]["aside"] == 3
            assert [each["eta_s"] for each in seen["queue"]["line"]] == [None] * 3
            assert "same key" in seen["standing"]["says"]
            clients.pop(0).close()
            gate.until(active=2, queued=2)
        finally:
            for client in clients:
                client.close()
        gate.until(active=0, queued=0)
        assert ask(gate, capped).status == 200


def test_those_who_leave_while_they_stand_aside_are_forgotten(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("capped", max_active=1)
    with keyed(engine, keys, "--max-active", "8") as gate:
        with gate.client() as holder:
            holder.post(CHAT, chat(4000), x_api_key=secret).until_events(1)
            for _ in range(5):
                with gate.client() as client:
                    client.post(CHAT, chat(), x_api_key=secret)
            gate.until(active=1, queued=0)
            assert held_by(gate, "capped") == 1
        gate.until(active=0)
        assert ask(gate, secret).status == 200


def test_slots_are_what_is_counted(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("capped", max_active=4)
    with keyed(engine, keys, "--max-active", "8") as gate, gate.client() as three, gate.client() as two:
        three.post(CHAT, chat(4000, n=3), x_api_key=secret).until_events(1)
        two.post(CHAT, chat(4000, n=2), x_api_key=secret)
        gate.until(active=3, queued=1)
        three.close()
        gate.until(active=2, queued=0)


def test_nobody_is_shed_for_those_who_stand_aside(engine: Engine, keys: KeysFile) -> None:
    """They filled the line, so others were turned away by chance, with seven of eight slots free."""
    capped, other = keys.add("capped", max_active=1), keys.add("other-one")
    with keyed(engine, keys, "--max-active", "8", "--queue-max", "4", "--shed", "true") as gate:
        clients = [gate.client().post(CHAT, chat(20_000), x_api_key=capped) for _ in range(5)]
        try:
            gate.until(active=1, queued=4)
            assert {gate.ask(chat(), x_api_key=other).status for _ in range(3)} == {200}
        finally:
            for client in clients:
                client.close()
        gate.until(active=0, queued=0)


def test_how_long_a_key_waits_for_itself_is_no_missed_objective(engine: Engine, keys: KeysFile) -> None:
    """A key over its own cap spent everybody's error budget, and woke somebody."""
    capped = keys.add("capped", max_active=1)
    flags = ("--max-active", "8", "--queue-timeout-s", "1.5", "--slo-ttft-s", "0.2")
    with keyed(engine, keys, *flags) as gate, gate.client() as late:
        with gate.client() as holder:
            holder.post(CHAT, chat(4000), x_api_key=capped).until_events(1)
            assert ask(gate, capped).error["code"] == "queue_timeout"
            late.post(CHAT, chat(), x_api_key=capped)
            gate.until(active=1, queued=1)
            wait_until(lambda: gate.metric("api_queue_oldest_wait_seconds") > 0.2, "its first token will be late")
        assert late.reply().status == 200
        gate.until(active=0, queued=0)
        gate.until_counted(1, key="capped", status="200")
        assert sum(gate.status()["slo"]["results"].values()) == 0
        waits_s = [gate.metric("api_queue_wait_seconds_sum", outcome=each) for each in ("granted", "queue_timeout")]
        assert max(waits_s) < 0.1, "it waited for no slot of the gate's"
