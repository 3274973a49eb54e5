"""What a person at Open WebUI sees, and what that costs the gate: nothing that outlives the person's wish."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.open_webui.conftest import Sit, fill
from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, MODEL
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until

if TYPE_CHECKING:
    from tests.open_webui.running import OpenWebUI

pytestmark = pytest.mark.open_webui

QUESTION = "How does a headgate work?"
WORDS = 128
"""Of an answer to somebody who names no limit."""


def url(gate: Gateway) -> str:
    return f"http://127.0.0.1:{gate.port}"


def test_answer_streams_and_ends_whole(sit: Sit, gate: Gateway) -> None:
    before = gate.counted(reason="ok")
    person = sit()
    person.ask(QUESTION)
    assert 10 <= person.until_words(10) < WORDS
    person.sees_the_end()
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    assert person.answer == gate.ask(asked).text, "the engine's own words, all of them"
    gate.until_counted(before + 2, route=CHAT, reason="ok")


def test_message_is_four_requests_unless_the_background_ones_are_turned_off(sit: Sit, webui: OpenWebUI) -> None:
    with simulated_engine(*ROOMY) as engine, gateway(engine, "--max-active", "2") as gate:
        webui.stand_behind(url(gate))
        person = sit()
        person.ask(QUESTION)
        person.sees_the_end()
        gate.until(active=0, queued=0)
        assert gate.counted() == 1
        webui.background(on=True)
        person = sit()
        person.ask("And what is it made of?")
        person.sees_the_end()
        gate.until_counted(5, route=CHAT, status="200", reason="ok")
        assert gate.counted() == 5
        assert gate.metric("api_time_to_first_token_seconds_count") == 2, (
            "two chats stream, the rest is asked for whole"
        )


def test_chat_is_sent_without_tools_and_with_usage(sit: Sit, gate: Gateway, webui: OpenWebUI) -> None:
    """24 KB of tools came with every message, and vLLM refuses tools unless it is told to take them."""
    before = gate.metric("api_tokens_total", kind="prompt")
    person = sit()
    person.ask(QUESTION)
    person.sees_the_end()
    gate.until(active=0)
    assert gate.metric("api_tokens_total", kind="prompt") - before < 50
    assert "Error" not in person.messages.inner_text()


def test_full_line_is_told_once_and_asking_again_is_answered(sit: Sit, gate: Gateway) -> None:
    refused = gate.counted(status="429")
    with ExitStack() as others:
        fill(gate, others)
        person = sit()
        person.ask(QUESTION)
        person.sees(
            re.compile(
                r"The model is busy: both slots are taken and the line of 2 is full\. Try again in about \d+ sec"
            )
        )
        person.sees_the_end()
        assert gate.counted(status="429") == refused + 1
    gate.until(active=0, queued=0)
    person.ask_again()
    person.until_words(100)
    person.sees_the_end()
    assert gate.counted(status="429") == refused + 1, "it never came back by itself"


def test_background_requests_that_are_refused_are_not_seen(sit: Sit, gate: Gateway, webui: OpenWebUI) -> None:
    webui.background(on=True)
    refused = gate.counted(status="429")
    with ExitStack() as others:
        fill(gate, others)
        person = sit()
        person.ask(QUESTION)
        person.sees("The model is busy")
        gate.until_counted(refused + 2, route=CHAT, status="429")
    assert person.messages.inner_text().count("busy") == 1


def test_persons_question_goes_before_the_title_that_came_with_it(sit: Sit, webui: OpenWebUI) -> None:
    with simulated_engine(*ROOMY, "--speed", "5") as engine, gateway(engine, "--max-active", "1") as gate:
        webui.stand_behind(url(gate))
        webui.background(on=True)
        person = sit()
        with gate.hold(1, tokens=60_000):
            person.ask(QUESTION)
            gate.until(active=1, queued=2)
        wait_until(lambda: gate.log().count('"status":200') == 4, "all four are in the log")
        lines = [json.loads(line) for line in gate.log().splitlines() if '"status":200' in line]
        assert [line["stream"] for line in lines] == [True, False, False, False]
        person.sees_the_end()


def test_who_waits_in_line_is_answered(sit: Sit, gate: Gateway) -> None:
    person = sit()
    with gate.hold(2, tokens=60_000):
        person.ask(QUESTION)
        gate.until(active=2, queued=1)
        person.sees_waiting()
    person.until_words(100)
    person.sees_the_end()
    assert len(person.answer.split()) == WORDS


def test_stop_frees_the_slot_and_the_engine(sit: Sit, gate: Gateway, engine: Engine) -> None:
    aborted = engine.state()["aborted"]
    person = sit()
    person.ask(QUESTION)
    person.until_words(5)
    person.stop()
    engine.state(inflight=0, open=0, aborted=aborted + 1)
    gate.until(active=0)
    person.sees_the_end()
    assert 5 <= len(person.answer.split()) < WORDS


def test_stop_leaves_the_line(sit: Sit, gate: Gateway) -> None:
    person = sit()
    with gate.hold(2, tokens=60_000):
        person.ask(QUESTION)
        gate.until(queued=1)
        person.stop()
        gate.until(active=2, queued=0)


def test_closed_tab_does_not_stop_the_answer(sit: Sit, gate: Gateway, engine: Engine) -> None:
    """Open WebUI's server reads it to its end all the same."""
    finished = engine.state()["finished"]
    person = sit()
    person.ask(QUESTION)
    person.until_words(5)
    person.page.close()
    engine.state(inflight=0, finished=finished + 1, timeout_s=30.0)


def test_death_of_the_engine_leaves_what_was_said_and_says_so(sit: Sit, webui: OpenWebUI) -> None:
    with gateway(None, "--engine-args", "--load-s 0 --base-s 0.03") as gate:
        webui.stand_behind(url(gate))
        person = sit()
        person.ask(QUESTION)
        person.until_words(10)
        os.kill(gate.status()["engines"][0]["pid"], signal.SIGKILL)
        person.sees("The answer was cut short")
        person.sees_the_end()
        assert 10 <= len(person.answer.split()) < WORDS
        person.ask_again()
        person.until_words(100)


def test_no_engine_is_told(sit: Sit, webui: OpenWebUI) -> None:
    with simulated_engine() as engine, gateway(engine, "--wake-timeout-s", "1") as gate:
        webui.stand_behind(url(gate))
        person = sit()
        engine.process.kill()
        wait_until(lambda: gate.status()["engines"][0]["state"] != "ready", "the engine is missed")
        person.ask(QUESTION)
        person.sees(re.compile(r"The model is not ready: no engine came up within 1 s\. Try again in about \d+ sec"))
        person.sees_the_end()
        assert gate.counted(status="503") == 1


def test_who_asks_while_the_engine_is_away_is_answered_once_it_is_back(sit: Sit, webui: OpenWebUI) -> None:
    with simulated_engine() as engine, gateway(engine) as gate:
        webui.stand_behind(url(gate))
        person = sit()
        engine.process.kill()
        engine.process.wait()
        wait_until(lambda: gate.status()["engines"][0]["state"] != "ready", "the engine is missed")
        person.ask(QUESTION)
        gate.until(queued=1)
        person.sees_waiting()
        with simulated_engine("--port", str(engine.port)):
            person.until_words(100)
            person.sees_the_end()
        assert gate.metric("api_refusals_total") == 0


def test_wrong_key_is_an_empty_list_of_models(engine: Engine, webui: OpenWebUI) -> None:
    with gateway(engine, "--api-key", "the-right-key") as gate:
        webui.stand_behind(url(gate), key="a-wrong-one")
        assert webui.models() == []
        webui.stand_behind(url(gate), key="the-right-key")
        assert webui.models() == [MODEL]


def test_gateway_is_told_who_asks(webui: OpenWebUI) -> None:
    seen: list[str | None] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["X-OpenWebUI-User-Id"])
            self.send_response(200)
            self.send_header("content-length", "12")
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  likewise
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        webui.stand_behind(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()
    assert seen
    assert seen[0]
