"""Who is next, seen from outside: priority, fair shares, deadlines, a place in the line that is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.simulated import simulated_engine
from tests.wire.client import CHAT, DONE, Client, chat
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until

KEY = "open-sesame"
TASK = "### Task:\nGenerate a concise title for the chat."


@pytest.fixture(scope="module")
def one_slot() -> Iterator[Gateway]:
    """One slot, a line of four, callers with a key."""
    with (
        simulated_engine(*ROOMY) as engine,
        gateway(engine, "--max-active", "1", "--queue-max", "4", "--api-key", KEY) as gate,
    ):
        gate.authorize(KEY)
        yield gate


def served(gate: Gateway, *waiting: dict[str, str]) -> list[str]:
    """The ids of requests with these headers, in the order in which they are served; they come one after another."""
    with ExitStack() as stack:
        holder = stack.enter_context(gate.client()).post(CHAT, chat(60_000), x_api_key=KEY)
        holder.until_events(1)
        clients: list[Client] = []
        for place, headers in enumerate(waiting, 1):
            content = chat(1)
            if "task" in headers:
                content = chat(1, stream=False, text=TASK)
            named = {name: value for name, value in headers.items() if name != "task"}
            client = stack.enter_context(gate.client())
            clients.append(client.post(CHAT, content, **{"x_api_key": KEY, **named}))
            gate.until(queued=place)
        holder.close()
        for client in clients:
            assert client.reply().status == 200
        ids = {headers["x_request_id"] for headers in waiting}
        wait_until(lambda: all(f'"{each}"' in gate.log() for each in ids), "all are in the log")
        lines = [json.loads(line) for line in gate.log().splitlines() if line.startswith("{")]
        return [line["request_id"] for line in lines if line.get("request_id") in ids]


def test_high_goes_before_normal_before_low(one_slot: Gateway) -> None:
    order = served(
        one_slot,
        {"x_request_id": "p-low", "x_headgate_priority": "low"},
        {"x_request_id": "p-normal"},
        {"x_request_id": "p-high", "x_headgate_priority": "high"},
        {"x_request_id": "p-first", "x_headgate_priority": "-3"},
    )
    assert order == ["p-first", "p-high", "p-normal", "p-low"]


def test_users_of_one_key_take_turns(one_slot: Gateway) -> None:
    order = served(
        one_slot,
        {"x_request_id": "u-a1", "x_headgate_user": "a"},
        {"x_request_id": "u-a2", "x_headgate_user": "a"},
        {"x_request_id": "u-b1", "x_openwebui_user_id": "b"},
    )
    assert order == ["u-a1", "u-b1", "u-a2"]


def test_what_a_user_interface_asks_for_by_itself_waits_behind_a_persons_question(one_slot: Gateway) -> None:
    order = served(one_slot, {"x_request_id": "t-title", "task": "title"}, {"x_request_id": "t-question"})
    assert order == ["t-question", "t-title"]


def test_who_has_no_key_cannot_push_forward() -> None:
    with simulated_engine(*ROOMY) as engine, gateway(engine, "--max-active", "1", "--queue-max", "4") as gate:
        first = {"x_request_id": "a-1", "x_api_key": ""}
        pushing = {"x_request_id": "a-2", "x_api_key": "", "x_headgate_priority": "high", "x_headgate_user": "x"}
        assert served(gate, first, pushing) == ["a-1", "a-2"]


def test_a_trusted_proxy_is_believed_without_a_key() -> None:
    flags = ("--max-active", "1", "--queue-max", "4", "--trusted-proxies", "10.0.0.0/8, 127.0.0.1")
    with simulated_engine(*ROOMY) as engine, gateway(engine, *flags) as gate:
        first = {"x_request_id": "x-1", "x_api_key": ""}
        pushing = {"x_request_id": "x-2", "x_api_key": "", "x_headgate_priority": "high"}
        assert served(gate, first, pushing) == ["x-2", "x-1"]


def test_in_a_full_line_a_newcomer_takes_the_place_of_whoever_has_most_in_it(one_slot: Gateway) -> None:
    with ExitStack() as stack:
        holder = stack.enter_context(one_slot.client()).post(CHAT, chat(60_000), x_api_key=KEY)
        holder.until_events(1)
        greedy = []
        for place in range(1, 5):
            client = stack.enter_context(one_slot.client())
            greedy.append(client.post(CHAT, chat(1), x_api_key=KEY, x_headgate_user="greedy"))
            one_slot.until(queued=place)
        modest = stack.enter_context(one_slot.client())
        modest.post(CHAT, chat(1), x_api_key=KEY, x_headgate_user="modest")
        refused = greedy[-1].reply()
        assert refused.status == 429
        assert refused.error["code"] == "wait_too_long"
        assert int(refused.headers["retry-after-ms"]) > 0
        one_slot.until(queued=4)
        holder.close()
        assert modest.reply().text
        for client in greedy[:-1]:
            assert client.reply().body.endswith(DONE)
    one_slot.until(active=0, queued=0)


def test_a_deadline_is_the_longest_wait(one_slot: Gateway) -> None:
    before = one_slot.metric("api_refusals_total", reason="wait_too_long", priority="low")
    with one_slot.client() as client:
        client.post(CHAT, chat(60_000), x_api_key=KEY).until_events(1)
        refused = one_slot.ask(x_api_key=KEY, x_headgate_deadline_ms="40", x_headgate_priority="low")
    assert refused.status == 429
    assert refused.headers["x-headgate-reason"] == "wait_too_long"
    assert one_slot.metric("api_refusals_total", reason="wait_too_long", priority="low") == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        {"x_headgate_priority": "urgent"},
        {"x_headgate_priority": "99"},
        {"x_headgate_priority": "1e1"},
        {"x_headgate_priority": "\u00b2"},
        {"x_headgate_deadline_ms": "0"},
        {"x_headgate_deadline_ms": "-5"},
        {"x_headgate_deadline_ms": "soon"},
        {"x_headgate_deadline_ms": "99999999999999999999"},
    ],
)
def test_a_wish_that_cannot_be_understood_is_refused(one_slot: Gateway, headers: dict[str, str]) -> None:
    refused = one_slot.ask(x_api_key=KEY, **headers)
    assert refused.status == 400
    assert refused.error["code"] == "invalid_request"
    assert next(iter(headers)).replace("_", "-") in refused.error["message"]


def test_who_waits_is_told_its_place_and_then_served(one_slot: Gateway) -> None:
    with one_slot.client() as holder, one_slot.client() as client:
        holder.post(CHAT, chat(60_000), x_api_key=KEY).until_events(1)
        client.post(CHAT, chat(3), x_api_key=KEY, x_headgate_wait="events")
        told = client.until(b": queued position=1")
        assert told.status == 200
        assert told.headers["content-type"].startswith("text/event-stream")
        holder.close()
        reply = client.reply()
    assert reply.text
    assert reply.body.endswith(DONE)


def test_who_was_told_its_place_gets_a_later_refusal_as_an_event() -> None:
    with (
        simulated_engine(*ROOMY) as engine,
        gateway(engine, "--max-active", "1", "--queue-timeout-s", "1.3") as gate,
        gate.hold(1, 60_000),
    ):
        reply = gate.ask(x_headgate_wait="events")
        assert reply.status == 200
        assert b": queued position=1" in reply.body
        assert reply.data[-1]["error"]["code"] == "queue_timeout"
        assert reply.body.endswith(DONE)
        gate.until_counted(1, "api_refusals_total", reason="queue_timeout")


def test_slots_are_found_where_the_engine_cannot_keep_the_objective_with_all_it_schedules() -> None:
    """A step takes 20 ms and 3 ms for each sequence: 100 ms between tokens is kept with 26 of them."""
    slow = ("--base-s", "0.02", "--per-sequence-s", "0.003", "--max-num-seqs", "64", "--speed", "1")
    with simulated_engine(*ROOMY, *slow) as engine, gateway(engine) as gate:
        assert gate.status()["slots"]["max_active"] == 64
        with gate.hold(60, 60_000):
            wait_until(lambda: gate.metric("api_max_active") < 50, "there are fewer slots")
            assert gate.metric("api_max_active_why", why="itl") == 1.0


def test_at_full_load_the_shedder_turns_newcomers_away() -> None:
    flags = ("--max-active", "1", "--queue-max", "2", "--shed", "true")
    with ExitStack() as stack:
        engine = stack.enter_context(simulated_engine(*ROOMY))
        gate = stack.enter_context(gateway(engine, *flags))
        stack.enter_context(gate.hold(1, 60_000))
        for place in (1, 2):
            stack.enter_context(gate.client()).post(CHAT, chat(1))
            gate.until(queued=place)
        refused = gate.ask()
        assert (refused.status, refused.error["code"]) == (429, "shed")
        assert int(refused.headers["retry-after-ms"]) > 0
        gate.until_counted(1, "api_refusals_total", reason="shed")


def test_a_low_request_that_was_sent_nothing_is_put_back_for_a_high_one() -> None:
    flags = ("--max-active", "1", "--queue-max", "1", "--api-key", KEY, "--preempt", "true")
    with (
        simulated_engine(*ROOMY) as engine,
        gateway(engine, *flags) as gate,
        gate.client() as low,
        gate.client() as high,
    ):
        gate.authorize(KEY)
        engine.faults({"kind": "slow_head", "seconds": 600, "times": 1})
        low.post(CHAT, chat(3), x_api_key=KEY, x_headgate_priority="low", x_request_id="v-low")
        gate.until(active=1)
        engine.state(inflight=1)
        high.post(CHAT, chat(3), x_api_key=KEY, x_headgate_priority="high", x_request_id="v-high")
        assert high.reply().body.endswith(DONE)
        reply = low.reply()
        assert reply.text
        assert reply.body.endswith(DONE)
        gate.until_counted(1, "api_engine_requests_total", outcome="put_back")
        gate.until(active=0, queued=0)


def test_a_request_that_has_begun_keeps_its_slot_whoever_comes() -> None:
    flags = ("--max-active", "1", "--queue-timeout-s", "0.3", "--api-key", KEY, "--preempt", "true")
    with simulated_engine(*ROOMY) as engine, gateway(engine, *flags) as gate, gate.client() as low:
        gate.authorize(KEY)
        low.post(CHAT, chat(60_000), x_api_key=KEY, x_headgate_priority="low").until_events(1)
        refused = gate.ask(x_api_key=KEY, x_headgate_priority="high")
        assert refused.error["code"] == "queue_timeout"
        assert gate.metric("api_engine_requests_total", outcome="put_back") == 0
