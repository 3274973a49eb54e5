"""The races of cancellation: whoever leaves, and whenever, no slot is lost and no place is kept."""

from __future__ import annotations

import asyncio
import random

from headgate.errors import Refusal
from headgate.gate import Gate
from tests.gate.clock import pass_time, run
from tests.gate.waiters import a_gate, cancelled, in_line


def test_a_waiter_that_is_cancelled_leaves_the_line() -> None:
    async def main() -> None:
        gate = a_gate()
        await gate.acquire()
        waiter = await in_line(gate.acquire(size_bytes=10))
        waiter.cancel()
        await cancelled(waiter)
        assert gate.statistics().waiting == gate.statistics().waiting_bytes == 0

    run(main())


def test_a_slot_is_returned_when_its_waiter_is_cancelled_between_grant_and_waking() -> None:
    async def main() -> None:
        gate = a_gate()
        held = await gate.acquire()
        unlucky, next_one = await in_line(gate.acquire()), await in_line(gate.acquire())
        held.release()
        assert gate.statistics().active == 1
        unlucky.cancel()
        await cancelled(unlucky)
        (await next_one).release()
        assert gate.statistics().active == 0

    run(main())


def test_a_slot_passes_over_waiters_that_were_cancelled_and_have_not_run_since() -> None:
    async def main() -> None:
        gate = a_gate()
        held = await gate.acquire()
        gone = [await in_line(gate.acquire()) for _ in range(3)]
        stayer = await in_line(gate.acquire())
        for task in gone:
            task.cancel()
        held.release()
        assert gate.statistics().waiting == 0
        (await stayer).release()
        for task in gone:
            await cancelled(task)
        assert gate.statistics().active == 0

    run(main())


def test_a_waiter_that_is_refused_and_cancelled_at_once_ends_once() -> None:
    async def main() -> None:
        gate = a_gate()
        held = await gate.acquire()
        waiter = await in_line(gate.acquire())
        gate.evict()
        waiter.cancel()
        await cancelled(waiter)
        held.release()
        assert gate.statistics().active == gate.statistics().waiting == 0

    run(main())


def test_a_waiter_whose_coroutine_is_closed_leaves_the_line() -> None:
    async def main() -> None:
        gate = a_gate()
        await gate.acquire()
        coroutine = gate.acquire()
        coroutine.send(None)
        assert gate.statistics().waiting == 1
        coroutine.close()
        assert gate.statistics().waiting == 0

    run(main())


def test_in_a_storm_of_leaving_clients_no_slot_is_lost() -> None:
    dice = random.Random(3)

    async def client(gate: Gate) -> None:
        lease = await gate.acquire(weight=dice.choice([1, 1, 2]))
        try:
            assert gate.statistics().active <= 4
            await pass_time(dice.random())
        finally:
            lease.release()

    async def main() -> None:
        gate = a_gate(slots=4, queue_max=200, queue_timeout_s=10.0)
        clients: list[asyncio.Task[None]] = []
        for _ in range(3000):
            clients.append(asyncio.create_task(client(gate)))
            if dice.random() < 0.8:
                dice.choice(clients[-20:]).cancel()
            if dice.random() < 0.2:
                await pass_time(dice.random() / 4)
        ends = await asyncio.gather(*clients, return_exceptions=True)
        kinds = {type(end) for end in ends}
        assert kinds == {type(None), asyncio.CancelledError, Refusal}
        seen = gate.statistics()
        assert (seen.active, seen.waiting, seen.waiting_bytes) == (0, 0, 0)
        assert seen.granted_total > 400

    run(main())
