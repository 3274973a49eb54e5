"""A browser, and a gateway of two slots in front of a slow engine, shared by the tests that only look and ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.simulated import Engine, simulated_engine
from tests.tools import tool
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

expect.set_options(timeout=15_000)

ENDED = re.compile("net::ERR_(CONNECTION_|EMPTY_RESPONSE|INCOMPLETE_CHUNKED|SOCKET_NOT_CONNECTED)")

Open = Callable[..., Page]


@pytest.fixture(scope="package")  # and no longer: while Playwright runs, no other event loop can in this thread
def browser() -> Iterator[Browser]:
    path = tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def look(browser: Browser) -> Iterator[Open]:
    """Opens a gateway's page. At the end: no error was logged, no policy broken, nobody else asked for anything.

    ``quiet``: what a log line may say all the same, a refusal's status, say. So may one that says that a connection
    could not be had or kept: a gateway that ends before the page does is no fault of the page.
    """
    trouble: list[str] = []
    contexts = []

    def open_(gate: Gateway, *, path: str = "/", quiet: str | None = None, **how: Any) -> Page:
        context = browser.new_context(viewport=how.pop("viewport", {"width": 1280, "height": 900}), **how)
        contexts.append(context)
        page = context.new_page()

        def logged(message: ConsoleMessage) -> None:
            known = ENDED.search(message.text) or (quiet is not None and quiet in message.text)
            if message.type in ("error", "warning") and not known:
                trouble.append(f"{message.type}: {message.text}")

        def asked(request: Request) -> None:
            if urlsplit(request.url).scheme != "data" and urlsplit(request.url).port != gate.port:
                trouble.append(f"asked for {request.url}")

        page.on("console", logged)
        page.on("request", asked)
        page.on("pageerror", lambda error: trouble.append(f"not caught: {error}"))
        page.goto(f"http://127.0.0.1:{gate.port}{path}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not trouble


@pytest.fixture(scope="package")
def _engine() -> Iterator[Engine]:
    with simulated_engine(*ROOMY, "--base-s", "0.01") as engine:
        yield engine


@pytest.fixture(scope="package")
def _gate(_engine: Engine) -> Iterator[Gateway]:
    # First come, first served: in the other orders a newcomer takes the place of one who has waited too long.
    with gateway(_engine, "--max-active", "2", "--queue-max", "4", "--queue-order", "fifo") as running:
        yield running


@pytest.fixture
def engine(_engine: Engine) -> Iterator[Engine]:
    yield _engine
    _engine.clear_faults()
    _engine.state(inflight=0, open=0)


@pytest.fixture
def gate(_gate: Gateway, engine: Engine) -> Iterator[Gateway]:
    """Two slots and a line of four; every test leaves it empty."""
    yield _gate
    engine.clear_faults()
    _gate.until(active=0, queued=0)
