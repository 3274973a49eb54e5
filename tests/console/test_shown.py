"""What the page shows is what is so: the sentence, the slots, the line, refusals, engines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import Open
from tests.simulated import Engine
from tests.wire.client import CHAT, MODEL, chat
from tests.wire.gateway import Gateway, gateway, wait_until
from tests.wire.test_keys_file import KeysFile


@contextmanager
def crowd(gate: Gateway, waiting: int) -> Iterator[None]:
    """Both slots held, and so many in the line."""
    with gate.hold(2), ExitStack() as stack:
        for _ in range(waiting):
            stack.enter_context(gate.client()).post(CHAT, chat(2))
        gate.until(active=2, queued=waiting)
        yield
        # Who waits leaves first: none of them is served meanwhile.


def says(page: Page, text: str) -> None:
    """The sentence matches ``text``, a regular expression; a space may be one that keeps a number by its unit."""
    expect(page.locator("#says")).to_have_text(re.compile(text.replace(" ", r"\s")))


def test_idle_gateway_says_so_and_what_to_do(gate: Gateway, look: Open) -> None:
    page = look(gate)
    says(page, "^(Idle: both|Refusing no longer)")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator(".cell.free")).to_have_count(2)
    expect(page.locator("#line-empty")).to_be_visible()
    expect(page).to_have_title("0/2 · Headgate")
    expect(page.locator("#facts")).to_contain_text(MODEL)


def test_whoever_has_waited_too_long_is_shown_the_least_that_is_left(engine: Engine, look: Open) -> None:
    """ "<1 s" stood beside one that had waited for 12 s, and was to let each newcomer pass."""
    with gateway(engine, "--max-active", "2", "--slo-ttft-s", "0.5", "--slo-itl-ms", "off") as gate, crowd(gate, 2):
        wait_until(lambda: gate.status()["queue"]["late"] == 2, "both have waited for too long")
        page = look(gate)
        expect(page.locator("#line-rows td:last-child").first).to_have_text(re.compile(r"^\d.* or more$"))


def test_full_gate_shows_who_holds_who_waits_and_what_to_do(gate: Gateway, look: Open) -> None:
    with crowd(gate, 3):
        page = look(gate)
        says(page, r"both slots are busy, 3 wait")
        expect(page.locator("#advice")).to_contain_text("raise MAX_ACTIVE (now 2; the engine runs up to 256)")
        expect(page.locator(".cell.flowing")).to_have_count(2)
        expect(page.locator("#slots-count")).to_have_text("2 of 2 busy")
        expect(page.locator("#line-count")).to_have_text("3 of 4 wait")
        expect(page.locator("#line-rows tr")).to_have_count(3)
        expect(page).to_have_title("2/2 · 3 wait · Headgate")
        seen = gate.status()
        assert page.locator(".cell .who").all_inner_texts() == [each["key"] for each in seen["slots"]["held"]]
        rows = page.locator("#line-rows tr").all_inner_texts()
        assert [row.split("\t")[:2] for row in rows] == [[str(at), "anonymous"] for at in (1, 2, 3)]
        tokens = int(re.sub(r"\D", "", page.locator(".cell .does").first.inner_text()))
        assert 0 < tokens <= gate.status()["slots"]["held"][0]["tokens"]
    expect(page.locator(".cell.free")).to_have_count(2)
    expect(page.locator("#line-rows tr")).to_have_count(0)


def test_one_that_takes_several_slots_is_one_cell_of_their_width(gate: Gateway, look: Open) -> None:
    with gate.hold(1, n=2):
        page = look(gate)
        expect(page.locator(".cell")).to_have_count(1)
        expect(page.locator(".cell .does")).to_contain_text("2 slots")
        expect(page.locator("#slots-count")).to_have_text("2 of 2 busy")


def test_refusals_are_named_counted_and_explained(gate: Gateway, look: Open) -> None:
    with crowd(gate, 4):
        for _ in range(3):
            assert gate.ask().status == 429
        page = look(gate)
        says(page, r"^Refusing: both slots are busy, 4 wait, \d+ were refused in the last 10 s \(queue_full\)")
        row = page.locator("#refusals li", has_text="queue_full")
        expect(row).to_contain_text("429 queue_full")
        expect(row).to_contain_text("the line was full")
        expect(row.locator("strong")).to_have_text(str(int(gate.status()["refusals"]["queue_full"])))
        expect(page.locator("#basin")).to_have_attribute("data-full", "yes")


@pytest.mark.parametrize("width", [1280, 360])
def test_bars_of_refusals_begin_and_end_alike(gate: Gateway, look: Open, width: int) -> None:
    """Each began where its own name ends: of two with the same figure one looked longer, and lay elsewhere."""
    gate.ask(content_type="text/plain")
    gate.ask({})
    gate.ask(chat(), "/v1/audio/transcriptions", content_type="application/json")
    page = look(gate, viewport={"width": width, "height": 900})
    bars = page.locator("#refusals .bar")
    expect(page.locator("#refusals li", has_text="unsupported_media_type")).to_contain_text("nor multipart for audio")
    expect(page.locator("#refusals li", has_text="invalid_request")).to_be_visible()
    boxes = [box for bar in bars.all() if (box := bar.bounding_box())]
    assert len({(box["x"], box["width"]) for box in boxes}) == 1
    assert boxes[0]["width"] >= 32
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_plots_have_axes_an_objective_and_a_summary_in_words(gate: Gateway, look: Open) -> None:
    gate.ask(chat(20))
    page = look(gate)
    ttft = page.locator("#plot-ttft")
    expect(ttft.locator("svg")).to_have_attribute(
        "aria-label", re.compile(r"Time to first token.*p95.*The objective is 1\.0 s")
    )
    expect(ttft.locator(".aim-text")).to_contain_text("objective 1 s")
    wait_until(lambda: max(gate.get("/status?recent=1").json()["recent"]["tokens_per_s"]) > 0, "tokens were counted")
    expect(page.locator("#plot-tokens .series.area")).to_have_attribute("d", re.compile(r"^M[\d.]+ [\d.]+L"))
    expect(page.locator("#plot-gate .tick.top")).not_to_be_empty()
    box = page.locator("#plot-tokens svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 10)
    expect(page.locator("#plot-tokens .now")).to_contain_text("ago: tokens/s")


def test_answers_and_objectives_since_the_start_are_counted(gate: Gateway, look: Open) -> None:
    gate.ask()
    page = look(gate)
    answered = page.locator("#totals > div", has_text="answered").locator("dd")
    expect(answered).to_have_text(re.compile(r"^[1-9]"))
    expect(page.locator("#totals")).to_contain_text("met the objectives")


def test_engine_that_loads_shows_how_far_it_is_and_who_waits_for_it(look: Open) -> None:
    with gateway(None, "--engine-args", "--load-s 60", ready=False) as gate, gate.client() as client:
        client.post(CHAT, chat())
        page = look(gate)
        says(page, r"^The engine is starting \(loading weights, \d+ %\).* 1 waits for it\.$")
        expect(page.locator(".engine .badge")).to_have_text("starting")
        expect(page.locator(".engine progress")).to_be_visible()
        expect(page.locator("#slots-count")).to_have_text("none: no engine is ready")


def test_engine_given_up_on_shows_its_last_words_as_text(look: Open) -> None:
    """The words are an engine's own, and whatever markup is in them stays words."""
    words = "<img src=x onerror=window.pwned=1>"
    fault = json.dumps({"kind": "refuse_to_start", "message": words, "times": None})
    with gateway(None, "--engine-args", f"--load-s 0 --fault '{fault}'", ready=False) as gate:
        page = look(gate)
        expect(page.locator(".engine pre")).to_contain_text(words)
        expect(page.locator(".engine .badge")).to_have_text(re.compile("backoff|failed"))
        says(page, "^The engine (crashed|has failed)")
        assert page.evaluate("window.pwned") is None


def test_hostile_names_stay_text(look: Open) -> None:
    name = "<img src=x onerror=window.pwned=1>simulated"
    hostile = "</script><script>window.pwned=2</script>"
    with gateway(None, "--served-model-name", name, "--engine-args", "--load-s 0") as gate:
        page = look(gate)
        expect(page.locator("#model option")).to_have_text(name)
        expect(page.locator("#facts")).to_contain_text(name)
        page.fill("#prompt", hostile)
        page.fill("#tokens", "5")
        page.click("#send")
        expect(page.locator("#outcome-state")).to_have_text("Answered.")
        assert page.evaluate("window.pwned") is None
        assert page.locator("img").count() == 0


def test_many_slots_are_squares_and_very_many_are_told_by_key(engine: Engine, look: Open) -> None:
    for slots, mode, item in (("100", "squares", ".square"), ("200", "groups", ".group")):
        with (
            gateway(engine, "--max-active", slots) as gate,
            gate.hold(3),
        ):
            page = look(gate)
            expect(page.locator("#slots-body")).to_have_attribute("data-mode", mode)
            expect(page.locator("#slots-count")).to_have_text(f"3 of {slots} busy")
            if mode == "squares":
                expect(page.locator(item)).to_have_count(100)
                expect(page.locator(".square:not(.free)")).to_have_count(3)
                expect(page.locator(".bank-who")).to_have_text("anonymous 3")
            else:
                expect(page.locator(item)).to_have_count(2)
                expect(page.locator(item).first).to_contain_text(re.compile("anonymous.*3 slots", re.DOTALL))


def test_a_key_called_free_is_a_row_beside_the_free_slots(engine: Engine, look: Open, tmp_path: Path) -> None:
    """Both were told apart by name alone: each second left one more row on the page, for as long as it was open."""
    keys = KeysFile(tmp_path / "keys.toml")
    keys.add("free")
    with gateway(engine, "--max-active", "200", "--api-keys-file", str(keys.path)) as gate, gate.client() as client:
        client.post(CHAT, chat(4000), authorization=f"Bearer {keys.secrets['free']}").until_events(1)
        page = look(gate)
        rows = page.locator("#slots-body .group")
        expect(rows.first).to_contain_text("1 slot,")
        page.evaluate("for (let n = 0; n < 9; n += 1) document.dispatchEvent(new Event('visibilitychange'))")
        expect(rows).to_have_count(2)
        expect(rows.last).to_contain_text("199 slots")
