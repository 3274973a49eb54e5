"""The asyncio shell: futures, one timer, and the races of cancellation. Time is the loop's, and jumps."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from tests.gate.clock import others_run, pass_time, run

from headgate.errors import Reason, Refusal
from headgate.gate import Gate, Lease, Ledger

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


# Slots


def test_a_free_slot_is_had_without_the_loop() -> None:
    gate = Gate(Ledger(), clock=lambda: 1.0)
    gate.resize("e0", 1)
    with pytest.raises(StopIteration) as had:
        gate.acquire().send(None)
    lease = had.value.value
    assert (lease.engine, lease.waited_s, lease.waking_s) == ("e0", 0.0, 0.0)


def test_a_slot_is_given_back_once_however_often_it_is_released() -> None:
    async def main() -> None:
        gate = a_gate(slots=2)
        one, _other = await gate.acquire(), await gate.acquire()
        for _ in range(3):
            one.release()
        assert one.released
        assert gate.statistics().active == 1

    run(main())


def test_a_slot_given_back_wakes_the_next_in_line() -> None:
    async def main() -> None:
        gate = a_gate()
        held = await gate.acquire()
        waiter = await in_line(gate.acquire())
        await pass_time(3.0)
        held.release()
        lease = await waiter
        assert lease.waited_s == pytest.approx(3.0)

    run(main())


def test_acquire_nowait_takes_a_free_slot_or_changes_nothing() -> None:
    async def main() -> None:
        gate = a_gate()
        held = gate.acquire_nowait()
        assert held is not None
        assert gate.acquire_nowait() is None
        assert gate.statistics().refused_total == gate.statistics().waiting == 0
        held.release()
        assert gate.acquire_nowait(weight=7) is not None

    run(main())


def test_a_larger_engine_wakes_hundreds_at_once() -> None:
    async def main() -> None:
        gate = a_gate(slots=0, queue_max=1000)
        waiters = [asyncio.create_task(gate.acquire()) for _ in range(1000)]
        await others_run()
        gate.resize("e0", 700)
        assert gate.statistics().active == 700
        assert {(await waiter).engine for waiter in waiters[:700]} == {"e0"}
        assert gate.statistics().waiting == 300
        gate.evict()
        await asyncio.gather(*waiters[700:], return_exceptions=True)

    run(main())


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    async def main() -> None:
        gate = a_gate(slots=2, queue_max=0)
        await gate.acquire(weight=2)
        with pytest.raises(Refusal) as caught:
            await gate.acquire()
        refused = caught.value
        assert refused.reason is Reason.QUEUE_FULL
        assert refused.retry_after_s == 1.0
        assert refused.message == "Both slots are busy and the line of 0 is full. Come back in about 1 s."

    run(main())


# Time


def test_a_waiter_is_refused_when_its_time_is_over() -> None:
    async def main() -> None:
        gate = a_gate(queue_timeout_s=30.0)
        await gate.acquire()
        started = asyncio.get_running_loop().time()
        refused = await refusal(await in_line(gate.acquire()))
        assert refused.reason is Reason.QUEUE_TIMEOUT
        assert asyncio.get_running_loop().time() - started == pytest.approx(30.0, abs=0.01)

    run(main())


def test_the_timer_serves_each_deadline_whatever_order_they_come_in() -> None:
    async def main() -> None:
        gate = a_gate(queue_timeout_s=30.0)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await gate.acquire()

        async def ended(request_timeout_s: float) -> float:
            with pytest.raises(Refusal):
                await gate.acquire(request_timeout_s=request_timeout_s)
            return loop.time() - started

        asked = [20.0, 5.0, 10.0, 1.0, 25.0]
        assert await asyncio.gather(*map(ended, asked)) == pytest.approx(asked, abs=0.01)

    run(main())


def test_the_deadline_of_one_who_left_does_not_hide_the_next() -> None:
    async def main() -> None:
        gate = a_gate(queue_timeout_s=30.0)
        await gate.acquire()
        leaver = await in_line(gate.acquire(request_timeout_s=2.0))
        stayer = await in_line(gate.acquire(request_timeout_s=4.0))
        leaver.cancel()
        assert (await refusal(stayer)).reason is Reason.REQUEST_TIMEOUT

    run(main())


def test_when_the_engine_goes_the_wake_timeout_runs() -> None:
    async def main() -> None:
        gate = a_gate(queue_timeout_s=30.0, wake_timeout_s=5.0)
        await gate.acquire()
        waiter = await in_line(gate.acquire())
        await pass_time(29.0)
        gate.resize("e0", 0)
        gate.expect(60.0)
        started = asyncio.get_running_loop().time()
        refused = await refusal(waiter)
        assert refused.reason is Reason.ENGINE_UNAVAILABLE
        assert refused.retry_after_s == pytest.approx(55.0, abs=0.01)
        assert asyncio.get_running_loop().time() - started == pytest.approx(5.0, abs=0.01)

    run(main())


def test_a_wait_for_waking_is_told_apart_from_a_wait_in_line() -> None:
    async def main() -> None:
        gate = a_gate(slots=0, queue_timeout_s=1.0)
        waiter = await in_line(gate.acquire())
        await pass_time(40.0)
        gate.resize("e0", 1)
        lease = await waiter
        assert (lease.waited_s, lease.waking_s) == (0.0, 40.0)

    run(main())


def test_on_uvloop_the_timer_does_not_come_before_the_deadline() -> None:
    async def main() -> None:
        gate = Gate(Ledger(queue_timeout_s=0.0104))
        gate.resize("e0", 1)
        await gate.acquire()
        assert (await refusal(await in_line(gate.acquire()))).reason is Reason.QUEUE_TIMEOUT

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Leaving


async def cancelled(task: asyncio.Task[Lease]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


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
        assert seen.granted_total > 500

    run(main())


# Engines that die, and the end


def test_who_comes_back_from_a_dead_engine_is_served_before_the_line() -> None:
    async def main() -> None:
        gate = a_gate()
        dead = await gate.acquire()
        waiter = await in_line(gate.acquire())
        again = await gate.acquire(after=dead)
        assert dead.released
        assert not waiter.done()
        again.release()
        await waiter

    run(main())


def test_who_comes_back_keeps_the_time_that_it_has_spent_in_line() -> None:
    async def main() -> None:
        gate = a_gate(wake_timeout_s=100.0)
        held = await gate.acquire()
        waiter = await in_line(gate.acquire())
        await pass_time(3.0)
        held.release()
        dead = await waiter
        gate.resize("e0", 0)
        back = await in_line(gate.acquire(after=dead))
        await pass_time(7.0)
        gate.resize("e0", 1)
        lease = await back
        assert (lease.waited_s, lease.waking_s) == pytest.approx((3.0, 7.0))

    run(main())


def test_who_comes_back_in_vain_has_given_its_slot_back() -> None:
    async def main() -> None:
        gate = a_gate()
        dead = await gate.acquire()
        gate.evict()
        with pytest.raises(Refusal):
            await gate.acquire(after=dead)
        assert gate.statistics().active == 0

    run(main())


def test_a_drain_is_idle_when_the_last_one_ends() -> None:
    async def main() -> None:
        gate = a_gate()
        held = await gate.acquire()
        waiter = await in_line(gate.acquire())
        gate.close(30.0)
        idle = asyncio.create_task(gate.wait_idle())
        held.release()
        lease = await waiter
        assert not idle.done()
        lease.release()
        await idle

    run(main())


def test_wait_idle_returns_at_once_when_nothing_runs() -> None:
    async def main() -> None:
        await a_gate().wait_idle()

    run(main())


def test_wait_idle_may_be_given_up() -> None:
    async def main() -> None:
        gate = a_gate()
        held = await gate.acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gate.wait_idle(), 5.0)
        held.release()
        await gate.wait_idle()

    run(main())


def test_the_drain_limit_refuses_those_who_still_wait() -> None:
    async def main() -> None:
        gate = a_gate()
        await gate.acquire()
        waiter = await in_line(gate.acquire())
        gate.close(30.0)
        gate.evict()
        assert (await refusal(waiter)).reason is Reason.DRAINING

    run(main())


def test_lease_and_gate_fit_a_log_line() -> None:
    async def main() -> None:
        gate = a_gate()
        lease = await gate.acquire()
        assert repr(lease) == "<Lease 1 on e0: held, waited 0.000 s>"
        assert repr(gate) == "<Gate <Ledger ready: 1/1 slots held, 0/64 waiting (0 bytes)>>"

    run(main())
