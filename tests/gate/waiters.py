"""A gate on the running loop's time, tasks that stand in its line, and how they end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from headgate.errors import Refusal
from headgate.gate import Gate, Lease, Ledger
from tests.gate.clock import others_run

if TYPE_CHECKING:
    from collections.abc import Coroutine


def a_gate(slots: int = 1, **settings: Any) -> Gate:
    gate = Gate(Ledger(**settings), clock=asyncio.get_running_loop().time)
    if slots:
        gate.resize("e0", slots)
    return gate


async def in_line(coroutine: Coroutine[object, object, Lease]) -> asyncio.Task[Lease]:
    """A task that has asked for its lease already."""
    task = asyncio.create_task(coroutine)
    await others_run()
    return task


async def refusal(waiter: asyncio.Task[Lease]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await waiter
    return caught.value


async def cancelled(task: asyncio.Task[Lease]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task
