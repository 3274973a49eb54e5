"""Who looks on: ``/status`` names who holds and who waits, ``/status/events`` tells it live, Basic lets browsers in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, MODEL, chat
from tests.wire.gateway import DEADLINE_S, Gateway, gateway, wait_until

ADMIN = {"HEADGATE_ADMIN_KEY": "open-sesame"}
POINT = {
    *("t", "active", "max_active", "queue", "requests_per_s", "refused_per_s", "tokens_per_s"),
    *("ttft_p50_s", "ttft_p95_s"),
}


@contextmanager
def watching(gate: Gateway) -> Iterator[Iterator[dict[str, Any]]]:
    """The pictures of ``/status/events`` as they come."""

    def pictures(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
        for line in lines:
            if line.startswith("data: "):
                yield json.loads(line[6:])

    with httpx.stream("GET", f"http://127.0.0.1:{gate.port}/status/events", timeout=DEADLINE_S) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield pictures(answer.iter_lines())


def test_engines_stand_in_their_order_whichever_was_ready_first() -> None:
    """On the page they stood as they had come: e1, e0."""
    with simulated_engine() as one, simulated_engine() as two, gateway(f"{one.url},{two.url}", env=ADMIN) as gate:
        wait_until(lambda: len(gate.status()["slots"]["by_engine"]) == 2, "both are ready")
        gate.http.post("/admin/engines/e0/restart", headers={"x-api-key": "open-sesame"}).raise_for_status()
        wait_until(lambda: gate.status()["engines"][0]["starts"].get("operator"), "one is looked for again")
        wait_until(lambda: len(gate.status()["slots"]["by_engine"]) == 2, "and is ready again")
        assert list(gate.status()["slots"]["by_engine"]) == ["e0", "e1"]


def test_status_names_who_holds_a_slot_and_who_waits(gate: Gateway) -> None:
    with gate.hold(3), gate.client() as whole, gate.client() as first, gate.client() as second:
        whole.post(CHAT, chat(4000, stream=False))
        gate.until(active=4)
        first.post(CHAT, chat(n=2))
        gate.until(queued=1)
        second.post("/generate", {"prompt": "x", "max_tokens": 1})
        gate.until(queued=2)
        seen = gate.status()
    assert seen["slots"]["by_engine"] == {"e0": {"slots": 4, "active": 4}}
    held = seen["slots"]["held"]
    assert [(each["engine"], each["key"], each["model"], each["weight"]) for each in held] == [
        ("e0", "anonymous", MODEL, 1)
    ] * 4
    assert [each["stream"] for each in held] == [True, True, True, False], "newest last"
    assert all(each["tokens"] >= 1 and 0 < each["ttft_s"] <= each["age_s"] + 1 for each in held[:3])
    assert (held[3]["tokens"], held[3]["ttft_s"]) == (0, None)
    assert [each["age_s"] for each in held] == sorted((each["age_s"] for each in held), reverse=True)
    line = seen["queue"]["line"]
    assert [(each["position"], each["weight"]) for each in line] == [(1, 2), (2, 1)]
    assert line[0]["waited_s"] >= line[1]["waited_s"] >= 0
    assert 0 < line[0]["eta_s"] < line[1]["eta_s"] < seen["queue"]["eta_s"]


def test_status_of_an_idle_gateway_has_empty_lists_and_no_wait(gate: Gateway) -> None:
    seen = gate.status()
    assert seen["slots"]["held"] == seen["queue"]["line"] == []
    assert seen["queue"]["eta_s"] == 0
    assert "recent" not in seen


def test_recent_is_added_where_it_is_asked_for(gate: Gateway) -> None:
    gate.ask()
    recent = wait_until(
        lambda: (
            (seen := gate.get("/status?recent=1").json()["recent"]) and max(seen["tokens_per_s"], default=0) and seen
        ),
        "a second with tokens in it",
    )
    assert recent.pop("step_s") == 1
    assert set(recent) == POINT
    assert len({len(column) for column in recent.values()}) == 1
    assert max(recent["requests_per_s"]) > 0
    assert any(recent["ttft_p95_s"])
    assert set(recent["max_active"]) <= {0, 4}
    assert gate.get("/status?recent=maybe").status_code == 400


def test_events_begin_with_the_last_minutes_and_go_on_with_a_point_a_second(gate: Gateway) -> None:
    with watching(gate) as pictures, gate.hold(1):
        first = next(pictures)
        assert set(first["recent"]) == POINT | {"step_s"}
        second = next(picture for picture in pictures if picture["slots"]["active"])
        assert set(second["point"]) == POINT
        assert "recent" not in second
        assert second["slots"]["held"][0]["key"] == "anonymous"
        third = next(pictures)
        assert 0.5 < third["point"]["t"] - second["point"]["t"] < 5
    gate.until_counted(1, route="/status/events", status="200")


def test_viewers_are_sent_away_at_the_drain_and_do_not_delay_it(engine: Engine) -> None:
    with gateway(engine, "--max-active", "1") as gate, gate.client() as running, watching(gate) as pictures:
        running.post(CHAT, chat(300)).until_events(1)
        next(pictures)
        gate.terminate()
        last = list(pictures)[-1]
        assert (last["ready"], last["reason"]) == (False, "draining")
        assert last["slots"]["active"] == 1, "they are told before it ends, not after"
        refused = gate.get("/status/events")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert gate.get("/status").json()["reason"] == "draining"
        running.reply()
        assert gate.exit_status() == 0


@pytest.fixture(scope="module")
def locked(_engine: Engine) -> Iterator[Gateway]:
    """A gateway with keys, its operation routes closed."""
    with gateway(_engine, "--api-key", "s\u00e9same", "--admin-key", "open-sesame", "--ops-auth", "key") as gate:
        yield gate


def basic(key: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()


OPERATION = ("/status", "/metrics", "/engines/e0/metrics")


@pytest.mark.parametrize("key", ["s\u00e9same", "open-sesame"])
@pytest.mark.parametrize("path", OPERATION)
def test_basic_with_a_key_as_its_password_opens_operation(locked: Gateway, path: str, key: str) -> None:
    assert locked.get(path, authorization=basic(key)).status_code == 200
    assert locked.get(path, authorization=basic(key, user="")).status_code == 200


@pytest.mark.parametrize("path", [*OPERATION, "/status/events"])
@pytest.mark.parametrize(
    "given", [basic("wrong"), basic(""), "Basic", "Basic !", "Basic b3Blbi1zZXNhbWU=", "Basic \u00e9", ""]
)
def test_basic_without_one_does_not(locked: Gateway, path: str, given: str) -> None:
    """The fifth is the key with no user before it: no colon, no password."""
    answer = locked.http.get(path, headers=[(b"authorization", given.encode("latin-1"))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_basic_never_opens_generation_or_administration(locked: Gateway) -> None:
    """A browser sends it by itself, wherever another site's page leads it."""
    given = basic("open-sesame")
    assert locked.ask(authorization=given).status == 401
    assert locked.get("/v1/models", authorization=given).status_code == 401
    answer = locked.http.post("/admin/engines/e0/restart", headers={"authorization": given})
    assert answer.status_code == 401
