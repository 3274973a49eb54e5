"""Requests whose engine died, and the gate's own end."""

from __future__ import annotations

import asyncio

import pytest

from headgate.errors import Reason, Refusal
from tests.gate.clock import pass_time, run
from tests.gate.waiters import a_gate, in_line, refusal


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
