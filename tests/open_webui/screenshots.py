"""Pictures of Open WebUI for docs/clients.md: ``python -m tests.open_webui.screenshots [FOLDER]``. About a minute."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.console.conftest import FLAGS
from tests.console.screenshots import smaller
from tests.open_webui.conftest import SLOW, fill
from tests.open_webui.person import Person
from tests.open_webui.running import open_webui
from tests.simulated import simulated_engine
from tests.tools import tool
from tests.wire.conftest import ROOMY
from tests.wire.gateway import gateway

QUESTION = "How does a headgate work?"
LARGEST_BYTES = 200_000


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/screenshots"))
    folder = parser.parse_args().folder
    expect.set_options(timeout=60_000)
    with ExitStack() as stack:
        engine = stack.enter_context(simulated_engine(*ROOMY, *SLOW))
        flags = ("--max-active", "2", "--queue-max", "2", "--queue-order", "fifo")
        gate = stack.enter_context(gateway(engine, *flags))
        webui = stack.enter_context(open_webui(gate))
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=tool("chromium"), args=FLAGS)
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 900, "height": 470})

        person = Person(page, webui)
        expect(page.get_by_text("You're now logged in.")).to_have_count(0)
        person.ask(QUESTION)
        person.until_words(60)
        _take(page, folder / "open-webui-chat.png")
        person.sees_the_end()

        person = Person(page, webui)
        fill(gate, stack)
        person.ask(QUESTION)
        person.sees("The model is busy")
        person.sees_the_end()
        page.mouse.move(450, 300)
        _take(page, folder / "open-webui-full.png", after_ms=500)


def _take(page: Page, path: Path, after_ms: int = 0) -> None:
    page.wait_for_timeout(after_ms)  # what slides in has arrived
    path.write_bytes(smaller(page.screenshot()))
    size = path.stat().st_size
    print(f"{path}: {size // 1000} kB")
    assert size < LARGEST_BYTES


if __name__ == "__main__":
    main()
