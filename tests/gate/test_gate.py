"""The asyncio shell: futures and one timer. Time is the loop's, and jumps."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from headgate.errors import Reason, Refusal
from headgate.gate import Claim, Gate, Ledger, make_order
from tests.gate.clock import others_run, pass_time, run
from tests.gate.waiters import a_gate, cancelled, in_line, refusal

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


def test_who_waits_behind_a_heavy_one_has_its_turn_as_soon_as_that_can_only_be_late() -> None:
    """A first token that took long makes it so at once; the timer stood where it would have been late before."""

    async def main() -> None:
        gate = a_gate(slots=3, order=make_order("priority"))
        held = await gate.acquire()
        heavy = await in_line(gate.acquire(weight=3, claim=Claim(within_s=10.0)))
        light = await in_line(gate.acquire(claim=Claim(within_s=100.0)))
        await pass_time(6.0)
        held.first_token()
        lease = await light
        assert lease.waited_s < 6.1
        held.release()
        lease.release()
        (await heavy).release()

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
        assert (
            refused.message
            == "The model is busy: both slots are taken and no line is kept. Try again in about 1 second."
        )

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


def test_slots_too_few_for_one_that_is_late_are_the_next_ones() -> None:
    """Nobody comes or leaves: it is the moment at which it is too late that must wake the gate."""

    async def main() -> None:
        gate = a_gate(4, order=make_order("priority"))
        await gate.acquire()
        heavy = await in_line(gate.acquire(weight=4, claim=Claim(within_s=1.0)))
        light = await in_line(gate.acquire(claim=Claim(within_s=3.0)))
        lease = await light
        assert lease.waited_s == pytest.approx(1.0, abs=0.1)
        assert not heavy.done()
        heavy.cancel()
        await cancelled(heavy)

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
        await pass_time(3.0)
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
