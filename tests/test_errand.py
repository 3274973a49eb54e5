"""An errand beside a task: the same coroutine, driven in the same way, sees the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from headgate.errand import Errand, as_task

Seen = list[str]
Start = Callable[[Coroutine[Any, Any, None]], Callable[[], object]]
"""Begins a coroutine, and gives what cancels it."""


def _as_errand(coro: Coroutine[Any, Any, None]) -> Callable[[], object]:
    return Errand(coro, asyncio.get_running_loop(), lambda _: None).cancel


def _as_a_task(coro: Coroutine[Any, Any, None]) -> Callable[[], object]:
    return asyncio.get_running_loop().create_task(coro).cancel


async def _turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _told(future: asyncio.Future[str], seen: Seen) -> None:
    """Waits twice for it, and tells what comes of either."""
    for _ in range(2):
        try:
            seen.append(await future)
        except asyncio.CancelledError:
            seen.append("cancelled")
        except ValueError:
            seen.append("failed")


async def _result(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()
    start(_told(future, seen))
    seen.append("not begun yet")
    await _turns()
    future.set_result("done")
    await _turns()


async def _failure(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()
    start(_told(future, seen))
    await _turns()
    future.set_exception(ValueError())
    await _turns()


async def _cancelled_while_it_waits(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()
    cancel = start(_told(future, seen))
    await _turns()
    cancel()
    await _turns()
    seen.append(str(future.cancelled()))


async def _cancelled_in_the_turn_of_its_result(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()
    cancel = start(_told(future, seen))
    await _turns()
    future.set_result("done")
    cancel()
    await _turns()


async def _cancelled_before_it_begins(start: Start, seen: Seen) -> None:
    cancel = start(_told(asyncio.get_running_loop().create_future(), seen))
    cancel()
    await _turns()


async def _cancelled_by_itself(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()
    cancels: list[Callable[[], object]] = []

    async def itself() -> None:
        cancels[0]()
        await _told(future, seen)

    cancels.append(start(itself()))
    await _turns()
    future.cancel()


async def _cancelled_after_its_end(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result("done")
    cancel = start(_told(future, seen))
    await _turns()
    cancel()
    await _turns()


async def _with_a_task(start: Start, seen: Seen) -> None:
    async def limited() -> None:
        await as_task()
        try:
            async with asyncio.timeout(0.001):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            seen.append("took too long")

    start(limited())
    while not seen:
        await _turns()


async def _cancelled_with_a_task(start: Start, seen: Seen) -> None:
    future = asyncio.get_running_loop().create_future()

    async def needs_one() -> None:
        await as_task()
        await _told(future, seen)

    cancel = start(needs_one())
    await _turns()
    cancel()
    await _turns()
    future.cancel()


async def _cancelled_before_its_task(start: Start, seen: Seen) -> None:
    cancels: list[Callable[[], object]] = []

    async def itself() -> None:
        cancels[0]()
        try:
            await asyncio.sleep(0)
            seen.append("went on")
        except asyncio.CancelledError:
            seen.append("cancelled")

    cancels.append(start(itself()))
    await _turns()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (_result, ["not begun yet", "done", "done"]),
        (_failure, ["failed", "failed"]),
        (_cancelled_while_it_waits, ["cancelled", "cancelled", "True"]),
        (_cancelled_in_the_turn_of_its_result, ["cancelled", "done"]),
        (_cancelled_before_it_begins, []),
        (_cancelled_by_itself, ["cancelled", "cancelled"]),
        (_cancelled_after_its_end, ["done", "done"]),
        (_with_a_task, ["took too long"]),
        (_cancelled_with_a_task, ["cancelled", "cancelled"]),
        (_cancelled_before_its_task, ["cancelled"]),
    ],
)
@pytest.mark.parametrize("start", [_as_errand, _as_a_task])
def test_an_errand_sees_what_a_task_sees(
    start: Start, case: Callable[[Start, Seen], Coroutine[Any, Any, None]], expected: Seen
) -> None:
    seen: Seen = []
    uvloop.run(asyncio.wait_for(case(start, seen), 10))
    assert seen == expected


@pytest.mark.parametrize("needs_a_task", [False, True])
def test_its_end_is_told_once_however_it_comes(needs_a_task: bool) -> None:
    async def claim() -> None:
        loop = asyncio.get_running_loop()
        ended: list[Errand] = []
        logged: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: logged.append(context))

        async def ends(how: str) -> None:
            if needs_a_task:
                await as_task()
            if how == "mistake":
                raise ValueError
            if how == "cancelled":
                await loop.create_future()

        started = {how: Errand(ends(how), loop, ended.append) for how in ("well", "mistake", "cancelled")}
        await _turns()
        started["cancelled"].cancel()
        await _turns()
        assert sorted(ended, key=id) == sorted(started.values(), key=id)
        del started, ended[:]
        await _turns()
        assert [type(context["exception"]) for context in logged] == [ValueError], "a mistake is logged"

    uvloop.run(claim())
