"""Waiting that something sooner can cut short.

The supervisor's task waits for time to pass or for an engine's answer, and both times for somebody who wants
something else. Separate because a lost or a doubled wake-up is made here or nowhere. It ends at having waited;
why it was woken, the task sees by looking.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Nudge:
    """One task waits; anybody on its event loop may nudge it. A nudge while it does not wait is kept."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Have the task look around."""
        self._event.set()

    async def wait(self, wait_s: float | None) -> None:
        """Wait for so long, or for the next nudge."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._event.wait()
        self._event.clear()

    async def unless(self, over: Callable[[], bool], doing: Coroutine[None, None, None]) -> None:
        """Do something, but leave off if, after a nudge, it is over.

        A nudge alone interrupts nothing: under a storm of them nothing would ever be done.
        """
        task = asyncio.ensure_future(doing)
        try:
            while not task.done():
                nudged = asyncio.ensure_future(self._event.wait())
                await asyncio.wait({task, nudged}, return_when=asyncio.FIRST_COMPLETED)
                nudged.cancel()
                if not task.done():
                    self._event.clear()
                    if over():
                        return
            task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
