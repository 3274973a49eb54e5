"""One Open WebUI and one browser for all of these tests, and a gateway of two slots with a line of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.console.conftest import FLAGS
from tests.open_webui.person import Person
from tests.open_webui.running import OpenWebUI, open_webui
from tests.simulated import Engine, simulated_engine
from tests.tools import tool
from tests.wire.client import CHAT, chat
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway

SLOW = ("--base-s", "0.03")
"""An answer of 128 tokens takes four seconds: long enough to do something in the middle of it."""

Sit = Callable[..., Person]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = tool("chromium")
    with sync_playwright() as playwright:
        expect.set_options(timeout=60_000)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def _engine() -> Iterator[Engine]:
    with simulated_engine(*ROOMY, *SLOW) as engine:
        yield engine


@pytest.fixture(scope="package")
def _gate(_engine: Engine) -> Iterator[Gateway]:
    with gateway(_engine, "--max-active", "2", "--queue-max", "2", "--queue-order", "fifo") as running:
        yield running


@pytest.fixture(scope="package")
def _webui(_gate: Gateway) -> Iterator[OpenWebUI]:
    with open_webui(_gate) as running:
        yield running


@pytest.fixture
def engine(_engine: Engine) -> Iterator[Engine]:
    """An engine with nothing in flight and no faults."""
    yield _engine
    _engine.clear_faults()
    _engine.state(inflight=0, open=0)


@pytest.fixture
def gate(_gate: Gateway, engine: Engine) -> Iterator[Gateway]:
    """The gateway that Open WebUI is in front of, unless a test puts it elsewhere."""
    yield _gate
    engine.clear_faults()
    _gate.until(active=0, queued=0)


@pytest.fixture
def webui(_webui: OpenWebUI, _gate: Gateway) -> Iterator[OpenWebUI]:
    """As it was at its start, whatever the test before made of it."""
    yield _webui
    _webui.background(on=False)
    _webui.stand_behind(f"http://127.0.0.1:{_gate.port}")


@pytest.fixture
def sit(browser: Browser, webui: OpenWebUI) -> Iterator[Sit]:
    """Sits a person down in front of an empty chat."""
    with ExitStack() as stack:

        def sit_down() -> Person:
            context = browser.new_context(viewport={"width": 900, "height": 560})
            stack.callback(context.close)
            return Person(context.new_page(), webui)

        yield sit_down


def fill(gate: Gateway, stack: ExitStack) -> None:
    """Both slots and the line, with the work of others; until the stack is closed."""
    stack.enter_context(gate.hold(2, tokens=60_000))
    for _ in range(2):
        stack.enter_context(gate.client()).post(CHAT, chat(2))
    gate.until(active=2, queued=2)
