"""An event loop whose time jumps to the next timer when nothing else is left to do: no test waits.

The idea is trio's ``MockClock(autojump_threshold=0)``. The jump sits in the selector: a loop with nothing
ready asks it to wait for so many seconds, which here pass at once.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never blocks: where it would, time passes instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            assert timeout is not None, "everything waits for something that will never come"
            self.now += max(timeout, 0.0)
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on time that jumps; ``time()`` starts at 1000 s."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    @property
    def has_work(self) -> bool:
        """Whether anything else can run now."""
        return bool(self._ready)  # type: ignore[attr-defined]


def run(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine on a loop of its own."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


async def others_run() -> None:
    """Let everything that is ready run once."""
    loop = asyncio.get_running_loop()
    ran = loop.create_future()
    loop.call_soon(ran.set_result, None)
    await ran


async def nothing_is_left_to_do() -> None:
    """Let everything run that can at this moment."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    await others_run()
    while loop.has_work:
        await others_run()


async def pass_time(seconds: float) -> None:
    """Let so many seconds of the loop's time go by."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def passed() -> None:
        if not over.done():
            over.set_result(None)

    loop.call_later(seconds, passed)
    await over
