"""A person at Open WebUI, with a browser: what is typed, clicked and read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.open_webui.running import OpenWebUI


class Person:
    """In front of a chat that has nothing in it yet."""

    def __init__(self, page: Page, webui: OpenWebUI) -> None:
        self.page = page
        page.goto(f"{webui.url}/")
        expect(self._input).to_be_visible()
        expect(page.get_by_role("button", name="Selected model: headgate-simulated")).to_be_visible()

    @property
    def _input(self) -> Locator:
        return self.page.locator("#chat-input")

    @property
    def messages(self) -> Locator:
        """All that stands in the chat."""
        return self.page.locator("#messages-container")

    def ask(self, text: str) -> None:
        self._input.click()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")
        expect(self.messages).to_contain_text(text)

    def stop(self) -> None:
        self.page.get_by_role("button", name="Stop", exact=True).click()

    def ask_again(self) -> None:
        """The button under an answer, and the first thing that it offers."""
        self.page.get_by_role("button", name="Regenerate").click()
        self.page.get_by_text("Try Again", exact=True).click()

    def sees(self, said: str | re.Pattern[str]) -> None:
        """Until it stands in the chat."""
        expect(self.messages).to_contain_text(said)

    def sees_the_end(self) -> None:
        """Until nothing is under way: what can be done with an answer is offered, and nothing can be stopped."""
        expect(self.page.get_by_role("button", name="Regenerate")).to_be_visible()
        expect(self.page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)

    def sees_waiting(self) -> None:
        """It can be stopped, and nothing has been said yet."""
        expect(self.page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        assert not self.answer

    @property
    def answer(self) -> str:
        """The words of the last answer, whatever else stands beside it left out."""
        shown = self.page.locator("#response-content-container p, #response-content-container div.prose p")
        return " ".join(shown.all_inner_texts()).strip()

    def until_words(self, at_least: int) -> int:
        """How many words of the answer are here, once there are so many."""
        self.page.wait_for_function(
            "wanted => (document.querySelector('#response-content-container')?.innerText ?? '')"
            ".trim().split(/\\s+/).length >= wanted",
            arg=at_least,
        )
        return len(self.answer.split())
