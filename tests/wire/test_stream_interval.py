"""An engine whose front is behind is asked for fewer, larger events while requests wait, and for no more than that."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, Reply, chat
from tests.wire.gateway import Gateway, gateway, wait_until

JOINED = ("--stream-interval", "2", "--base-s", "0.001")
"""Two tokens in each event, as if the engine's front were always late."""
CALLERS = 8
TOKENS = 200


@contextmanager
def a_crowd(gate: Gateway) -> Iterator[None]:
    """Callers, each of whom asks again when it was answered: more than there are slots."""
    over = threading.Event()
    wrong: list[Reply] = []

    def call() -> None:
        with gate.client() as client:
            while not over.is_set():
                reply = client.ask(CHAT, chat(TOKENS))
                if reply.status != 200 or not reply.ended:
                    wrong.append(reply)
                    return

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not wrong


def contents(reply: Reply) -> list[str]:
    """The text of each event that has some."""
    told = [chunk["choices"][0]["delta"].get("content") for chunk in reply.data if chunk["choices"]]
    return [text for text in told if text]


def asked_for(engine: Engine) -> list[object]:
    """The ``stream_interval`` of what the engine was asked last, None where there is none."""
    return [json.loads(body).get("stream_interval") for body in httpx.get(f"{engine.url}/simulator/recent").json()]


def one_that_leaves(gate: Gateway) -> int:
    """For how many tokens the events are taken of a client that leaves after twelve of them or a few more."""
    with gate.client() as leaver:
        leaver.post(CHAT, chat(4_000))
        request_id = leaver.until_events(12).headers["x-request-id"]
    left = gate.logged(request_id)
    assert left["estimated"]
    return int(left["completion_tokens"])


def test_larger_events_are_asked_for_while_requests_wait_and_the_front_is_behind() -> None:
    with simulated_engine(*JOINED) as engine, gateway(engine, "--max-active", "2") as gate:
        before = gate.ask(chat(TOKENS, text="the same"))
        wait_until(lambda: gate.metric("api_stream_interval", engine="e0") == 1, "it is looked at")
        with a_crowd(gate):
            wait_until(lambda: gate.metric("api_stream_interval", engine="e0") == 8, "larger events are asked for")
            after = gate.ask(chat(TOKENS, text="the same"))
            own = gate.ask(chat(TOKENS, text="the same", stream_interval=100))
            assert 8 in asked_for(engine)
            wait_until(lambda: one_that_leaves(gate) >= 2 + 8 * 10, "the engine is known to do as it is asked")
            with_tools = gate.ask(chat(TOKENS, tools=[{"type": "function", "function": {"name": "f"}}]))
        assert after.text == own.text == before.text
        assert len(contents(after)) <= 1 + TOKENS / 8
        assert len(contents(own)) <= 1 + TOKENS / 100
        assert len(contents(with_tools)) > TOKENS / 4
        for reply in (before, after, own):
            assert reply.figures is not None
            assert reply.figures["completion_tokens"] == TOKENS


def test_nothing_is_asked_for_where_it_is_off() -> None:
    flags = ("--max-active", "2", "--stream-interval-max", "1")
    with simulated_engine(*JOINED) as engine, gateway(engine, *flags) as gate, a_crowd(gate):
        wait_until(lambda: gate.counted(reason="ok") >= 60, "some were answered")
        assert set(asked_for(engine)) == {None}
        assert gate.metric("api_stream_interval", engine="e0") == 0


def test_nothing_is_asked_for_while_there_is_room_for_everybody() -> None:
    slots = str(CALLERS)
    with simulated_engine(*JOINED) as engine, gateway(engine, "--max-active", slots) as gate, a_crowd(gate):
        wait_until(lambda: gate.counted(reason="ok") >= 100, "some were answered")
        assert set(asked_for(engine)) == {None}
        assert gate.metric("api_stream_interval", engine="e0") == 1
