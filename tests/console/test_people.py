"""For everybody: by keyboard, on a phone, in the dark, by ear, without motion; and when the gateway comes back."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page, Route, expect

from tests.console.conftest import Open
from tests.console.test_shown import crowd
from tests.console.test_try import knows_the_model, send, state
from tests.simulated import Engine
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, gateway, wait_until

# Of every text that is shown: the least contrast with anything that may lie behind it. Colours are read from a canvas,
# which knows every way to write one; what lies behind is an ancestor, its ::before, or the water in the basin.
CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const light = ([r, g, b]) => {
    const linear = (each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((each) => linear(each / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    let found = [rgba(getComputedStyle(document.body).backgroundColor)];
    const chain = [];
    for (let each = element; each && each !== document.body; each = each.parentElement) chain.unshift(each);
    for (const each of chain) {
      const own = rgba(getComputedStyle(each).backgroundColor);
      if (own[3] > 0) found = found.map((colour) => over(own, colour));
      const layers = [getComputedStyle(each, "::before")];
      const water = each.querySelector(":scope > .water");
      if (water) layers.push(getComputedStyle(water));
      for (const layer of layers) {
        if (layer.content === "none" || layer.position !== "absolute") continue;
        const [r, g, b, a] = rgba(layer.backgroundColor);
        if (a > 0) found = found.concat(found.map((colour) => over([r, g, b, a * Number(layer.opacity)], colour)));
      }
    }
    return found;
  };
  const seen = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest(".spoken, .skip, script, style, :disabled")) continue;
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    for (const colour of behind(element)) seen.push([ratio(over(rgba(style.color), colour), colour), least, text]);
  }
  return seen;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_in_the_light_and_in_the_dark(gate: Gateway, look: Open, scheme: str) -> None:
    page = look(gate, color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(part) for part in re.findall(r"\d+", background)]
    assert (sum(levels) > 600) if scheme == "light" else (sum(levels) < 120)
    knows_the_model(page)
    page.fill("#tokens", "40")
    with gate.hold(2):
        page.click("#burst")
        expect(page.locator(".fate.refused")).to_have_count(16)
        expect(page.locator(".cell.flowing")).to_have_count(2)
        expect(page.locator("#refusals li")).to_be_visible()
        seen = page.evaluate(CONTRAST)
    assert len(seen) > 100
    poor = [(round(ratio, 2), text) for ratio, least, text in seen if ratio < least]
    assert not poor
    state(page, re.compile("^All have ended"))


def test_a_phone_needs_no_sideways_scrolling(gate: Gateway, look: Open) -> None:
    with crowd(gate, 4):
        gate.ask()
        page = look(gate, viewport={"width": 360, "height": 740})
        expect(page.locator("#line-rows tr")).to_have_count(4)
        expect(page.locator("#refusals li").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea, summary")]
            .filter((each) => each.checkVisibility() && each.type !== "checkbox")
            .map((each) => [each.id, each.getBoundingClientRect().height]).filter(([, height]) => height < 32)""")
        assert small == [], "too small for a thumb"


def focused(page: Page) -> str:
    name: str = page.evaluate("""() => {
      const { activeElement: it } = document;
      return it === document.body ? "" : it.id || it.getAttribute("href") || it.tagName.toLowerCase();
    }""")
    return name


def test_everything_can_be_done_by_keyboard_and_nothing_holds_it_fast(gate: Gateway, look: Open) -> None:
    with crowd(gate, 2):
        page = look(gate)
        expect(page.locator("#line-people")).to_be_visible()
        order = []
        while True:
            page.keyboard.press("Tab")
            name = focused(page)
            if not name or name in order:
                break
            order.append(name)
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"nobody sees that {name} has the focus"
        assert order == [
            *("#try", "line-people", "prompt", "model", "tokens", "stream", "send", "burst"),
            *("/status", "/metrics", "/docs"),
        ]
    page.locator("#prompt").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    state(page, "Answered.")


def test_the_skip_link_leads_to_the_box(gate: Gateway, look: Open) -> None:
    page = look(gate)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page) == "prompt"


CONTROLS = ("button", "link", "textbox", "combobox", "checkbox", "spinbutton", "img", "progressbar", "region")


def test_every_control_and_picture_has_a_name(gate: Gateway, look: Open) -> None:
    with crowd(gate, 1):
        page = look(gate)
        send(page, 4000)
        expect(page.locator("#line-rows tr")).to_have_count(2)
        tree = page.locator("body").aria_snapshot()
        page.click("#stop")
    named = re.findall(rf"^ *- (?:'|\")?({'|'.join(CONTROLS)})\b(.*)$", tree, re.MULTILINE)
    assert {role for role, _ in named} >= {
        "button",
        "link",
        "textbox",
        "combobox",
        "checkbox",
        "spinbutton",
        "img",
        "region",
    }
    nameless = [role for role, rest in named if not rest.lstrip().startswith('"')]
    assert not nameless, tree
    assert 'heading "Headgate" [level=1]' in tree
    assert re.search(r'heading "[^"]*both slots are busy[^"]*" \[level=2\]', tree)


def test_the_sentence_is_told_by_ear_when_it_changes_and_not_each_second(gate: Gateway, look: Open) -> None:
    page = look(gate)
    spoken = page.locator("#spoken")
    expect(spoken).to_have_attribute("aria-live", "polite")
    expect(spoken).to_have_text(re.compile("^(Idle|Refusing no longer)"))
    with crowd(gate, 1), ExitStack() as stack:
        expect(spoken).to_contain_text("1 waits")
        stack.enter_context(gate.client()).post(CHAT, chat(2))
        expect(page.locator("#says")).to_contain_text("2 wait")
        expect(spoken).to_contain_text("1 waits")


def test_who_wants_no_motion_gets_none(gate: Gateway, look: Open) -> None:
    page = look(gate, reduced_motion="reduce")
    expect(page.locator("#link")).to_have_text("live")
    moving = page.evaluate("""() => [".dot", "#leaf", ".cell", "#basin-water"].map((each) => {
      const { animationName, transitionDuration } = getComputedStyle(document.querySelector(each));
      return [animationName, transitionDuration];
    })""")
    assert moving == [["none", "0s"]] * 4


def test_page_says_that_the_gateway_is_gone_and_comes_back_with_it(engine: Engine, look: Open) -> None:
    with gateway(engine, "--max-active", "3") as gate:
        page = look(gate, quiet="503")  # of a reconnection while it drains
        expect(page.locator("#link")).to_have_text("live")
        port = gate.port
        gate.terminate()
        gate.exit_status()
        expect(page.locator("#says")).to_have_text(re.compile(r"^The gateway does not answer\. Below is how it was"))
        expect(page.locator("#link")).to_have_text("reconnecting")
        expect(page.locator("#spoken")).to_have_text("The gateway does not answer.")
    with gateway(engine, "--max-active", "5", "--port", str(port)):
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator(".cell.free")).to_have_count(5)
        expect(page.locator("#says")).to_have_text(re.compile("^Idle: all 5"))


def test_page_that_is_one_viewer_too_many_looks_on_without_hurry(gate: Gateway, look: Open) -> None:
    """It asked for a stream and for a picture four times a second each, of a gateway that had said that it is full."""
    page = look(gate, quiet="429")
    expect(page.locator("#link")).to_have_text("live")
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=429)

    page.route("**/status/events", refuse)
    page.add_init_script("""{
      const { setTimeout } = window;
      window.waits = [];
      window.setTimeout = (then, wait) => {
        window.waits.push(wait);
        return setTimeout(then, Math.min(wait, 20));
      };
    }""")
    page.reload()
    wait_until(lambda: page.evaluate("window.waits.length") >= 3, "it has tried again three times")
    assert len(refused) >= 2
    assert set(page.evaluate("window.waits")) == {5000}, "how long the page meant to wait each time"
    expect(page.locator("#says")).to_have_text(re.compile("^(Idle|Refusing no longer)"))


def test_page_follows_a_drain_to_its_end(engine: Engine, look: Open) -> None:
    with gateway(engine, "--max-active", "1") as gate, gate.client() as running, gate.client() as waiting:
        page = look(gate, quiet="503")
        expect(page.locator("#link")).to_have_text("live")
        running.post(CHAT, chat(400)).until_events(1)
        waiting.post(CHAT, chat(2))
        gate.until(active=1, queued=1)
        gate.terminate()
        expect(page.locator("#link")).to_have_text("draining")
        expect(page.locator("#says")).to_have_text("Draining: newcomers are refused; 1 slot is still at work, 1 waits.")
        running.reply()
        waiting.reply()
        assert gate.exit_status() == 0
        expect(page.locator("#says")).to_have_text(re.compile("^The gateway does not answer"))
