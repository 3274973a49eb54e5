"""The box: a prompt that streams, waits, is refused, is stopped; a burst; a key."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import Open
from tests.simulated import Engine
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, gateway
from tests.wire.scripted import SSE, chunked, scripted_engine


def knows_the_model(page: Page) -> None:
    """Before its first picture has come the box has no model to ask for."""
    expect(page.locator("#model option")).to_have_count(1)


def send(page: Page, tokens: int, *, stream: bool = True) -> None:
    knows_the_model(page)
    page.fill("#tokens", str(tokens))
    page.set_checked("#stream", stream)
    page.click("#send")


def state(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator("#outcome-state")).to_have_text(text)


def figure(page: Page, name: str) -> str:
    return page.locator("#figures > div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


@pytest.mark.parametrize("stream", [True, False])
def test_prompt_is_answered_with_its_figures(gate: Gateway, look: Open, stream: bool) -> None:
    page = look(gate)
    send(page, 7, stream=stream)
    state(page, "Answered.")
    assert len(page.locator("#answer").inner_text().split()) == 7
    assert figure(page, "request").startswith("hg-")
    assert gate.logged(figure(page, "request"))["completion_tokens"] == 7
    assert (figure(page, "tokens"), figure(page, "engine")) == ("7", "e0")
    assert re.fullmatch(r"[\d.]+ ms", figure(page, "waited in line"))
    assert float(figure(page, "tokens a second")) > 1


def test_prompt_waits_in_the_line_like_everybody(gate: Gateway, look: Open) -> None:
    page = look(gate)
    expect(page.locator("#link")).to_have_text("live")
    with gate.hold(2):
        send(page, 5)
        state(page, re.compile("^Sent. It waits"))
        expect(page.locator("#line-rows tr")).to_have_count(1)
        expect(page.locator("#clock")).to_have_text(re.compile(r"^place 1, a slot in about .+ · [\d.]+ s$"))
    state(page, "Answered.")
    waited_ms = gate.logged(figure(page, "request"))["queue_ms"]
    assert waited_ms > 0


def test_refusal_is_shown_with_its_reason_and_counts_down(gate: Gateway, look: Open) -> None:
    page = look(gate, quiet="429")
    with gate.hold(2), ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(gate.client()).post(CHAT, chat(2))
        gate.until(active=2, queued=4)
        send(page, 5)
        told = r"The model is busy: both slots are taken and the line of 4 is full\."
        state(page, re.compile(rf"^Refused with 429 queue_full: {told}"))
        expect(page.locator("#clock")).to_have_text(re.compile("^come back in|room is expected"))
        expect(page.locator("#send")).to_be_enabled()
    expect(page.locator("#clock")).to_have_text("room is expected now", timeout=65_000)


def test_one_that_waited_in_vain_is_told_so_in_its_stream(engine: Engine, look: Open) -> None:
    with gateway(engine, "--max-active", "1", "--queue-timeout-s", "2") as gate, gate.hold(1, tokens=60_000):
        page = look(gate)
        send(page, 5)
        expect(page.locator("#clock")).to_have_text(re.compile("^place 1"))
        state(page, re.compile(r"^Refused with queue_timeout: .*within 2 s\."))
        expect(page.locator("#clock")).to_have_text(re.compile("^come back in|room is expected"))


def test_stop_ends_the_engines_work(gate: Gateway, engine: Engine, look: Open) -> None:
    page = look(gate)
    send(page, 60_000)
    state(page, re.compile("^Answering"))
    engine.state(running=1)
    page.click("#stop")
    state(page, re.compile("^Stopped"))
    engine.state(inflight=0, running=0)
    gate.until(active=0)
    expect(page.locator("#send")).to_be_focused()


@pytest.mark.parametrize("button", ["#send", "#burst"])
def test_who_works_by_keyboard_keeps_the_place(button: str, gate: Gateway, look: Open) -> None:
    """The button that was pressed is out of use meanwhile, and the focus was lost with it."""
    page = look(gate)
    knows_the_model(page)
    page.fill("#tokens", "100")
    page.locator(button).press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    state(page, re.compile("^(Answered|All have ended)"))
    expect(page.locator(button)).to_be_focused()


def test_answer_that_was_cut_short_never_looks_whole(gate: Gateway, engine: Engine, look: Open) -> None:
    page = look(gate)
    # So late that not all of it can come in one read, of which nothing would have been sent yet.
    engine.faults({"kind": "error_event", "after_events": 100})
    send(page, 200)
    state(page, re.compile("^The answer was cut short: "))
    engine.faults({"kind": "cut", "after_events": 100})
    send(page, 200)
    state(page, re.compile("^The answer was cut short: The answer was cut short: the engine"))


def test_answer_that_the_page_cannot_read_is_given_up_and_its_slot_with_it(look: Open) -> None:
    """The page said that it was over, and went on taking it: the slot was held, and nothing could stop it."""
    with scripted_engine() as script, gateway(script.url) as gate:
        page = look(gate)
        script.say(SSE + chunked(b"data: {oops}\n\n")[: -len(b"0\r\n\r\n")])
        send(page, 5)
        state(page, "The answer can't be read.")
        gate.until(active=0)


def test_burst_fills_slots_and_line_and_the_rest_is_refused(gate: Gateway, engine: Engine, look: Open) -> None:
    page = look(gate)
    knows_the_model(page)
    page.fill("#tokens", "30")
    with gate.hold(1):
        page.click("#burst")
        expect(page.locator(".fate.refused")).to_have_count(15)
        state(page, re.compile("15 refused"))
    state(page, re.compile(r"^All have ended: 5 answered, 15 refused \(queue_full\)\. The longest wait was"))
    expect(page.locator(".fate.done")).to_have_count(5)
    engine.state(inflight=0)


def test_stop_ends_a_burst_with_all_its_work(gate: Gateway, engine: Engine, look: Open) -> None:
    page = look(gate)
    knows_the_model(page)
    page.fill("#tokens", "60000")
    page.click("#burst")
    expect(page.locator(".fate.answering")).to_have_count(2)
    page.click("#stop")
    state(page, re.compile("^Stopped"))
    engine.state(inflight=0)
    gate.until(active=0, queued=0)


def test_impossible_figures_are_not_sent(gate: Gateway, look: Open) -> None:
    page = look(gate)
    before = gate.counted()
    for button in ("#send", "#burst"):
        page.fill("#tokens", "0")
        page.click(button)
        expect(page.locator("#tokens")).to_be_focused()
    expect(page.locator("#outcome")).to_be_hidden()
    assert gate.counted() == before


def test_key_is_asked_for_where_one_is_wanted_and_stays_in_the_tab(engine: Engine, look: Open) -> None:
    with gateway(engine, "--api-key", "sesame", "--ops-auth", "key", ready=True) as gate:
        gate.authorize("sesame")
        page = look(gate, quiet="401", http_credentials={"username": "me", "password": "sesame"})
        expect(page.locator("#link")).to_have_text("live")
        expect(page.get_by_label("API key")).to_be_visible()
        send(page, 3)
        state(page, re.compile("^Refused with 401 unauthorized: An API key is needed"))
        page.get_by_label("API key").fill("wrong")
        send(page, 3)
        state(page, re.compile("^Refused with 401 unauthorized: The API key is not valid"))
        page.get_by_label("API key").fill("sesame")
        send(page, 3)
        state(page, "Answered.")
        kept = page.evaluate("[Object.keys(localStorage), Object.entries(sessionStorage), document.cookie]")
        assert kept == [[], [["headgate.key", "sesame"]], ""]
        gate.until_counted(1, key="default", status="200", route=CHAT)
