"""Several engines as one."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from headgate.pool.backoff import Backoff
from headgate.pool.lifecycle import State
from headgate.pool.pool import Pool
from headgate.pool.supervisor import Supervisor
from tests.pool.engines import DEADLINE_S, QUICK, Family, Scripted, alive

if TYPE_CHECKING:
    from pathlib import Path


class Capacity:
    """The slots of each engine, as it tells them."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self._changed = asyncio.Event()

    def __call__(self, supervisor: Supervisor) -> None:
        self.slots[supervisor.name] = supervisor.slots
        self._changed.set()

    async def until(self, **wanted: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not wanted.items() <= self.slots.items():
                self._changed.clear()
                await self._changed.wait()


def two_engines(capacity: Capacity, *, max_active: int | None = None, pids: str | None = None) -> Pool:
    plans: list[dict[str, object]] = [{"models": ["a", "both"]}, {"models": ["b", "both"]}]
    if pids:
        plans[0]["family"] = pids
    backoff = Backoff(first_s=1000, cap_s=1000)
    supervisors = [
        Supervisor(f"e{at}", Scripted(plan, max_num_seqs=2 + at), pace=QUICK, backoff=backoff)
        for at, plan in enumerate(plans)
    ]
    pool = Pool(supervisors, max_active=max_active)
    for supervisor in supervisors:
        supervisor.subscribe(capacity)
    return pool


def test_capacity_follows_each_engine_up_and_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        capacity, family = Capacity(), Family(tmp_path)
        pool = two_engines(capacity, pids=family.path)
        assert pool.eta_s() is None
        pool.start()
        pids = await family.pids()
        await capacity.until(e0=2, e1=3)
        assert [engine.name for engine in pool.ready()] == ["e0", "e1"]
        assert pool.eta_s() == 0.0
        os.kill(pids[0], signal.SIGKILL)
        await capacity.until(e0=0)
        assert [engine.name for engine in pool.ready()] == ["e1"]
        # Its port may have refused us before its process was seen to be gone.
        assert pool.states()["e0"] in (State.STARTING, State.BACKOFF)
        assert pool.states()["e1"] is State.READY
        await pool.stop()
        assert capacity.slots == {"e0": 0, "e1": 0}
        assert alive(pids) == []

    asyncio.run(scenario())


def test_a_given_number_of_slots_beats_the_engines_own() -> None:
    async def scenario() -> None:
        capacity = Capacity()
        pool = two_engines(capacity, max_active=7)
        pool.start()
        await capacity.until(e0=7, e1=7)
        engine = pool.engine("e0")
        assert engine is not None
        engine.set_max_active(1)
        assert capacity.slots == {"e0": 1, "e1": 7}
        await pool.stop()
        assert capacity.slots == {"e0": 0, "e1": 0}

    asyncio.run(scenario())


def test_models_are_merged_and_known_before_during_and_after() -> None:
    async def scenario() -> None:
        capacity = Capacity()
        pool = two_engines(capacity)
        pool.start()
        await capacity.until(e0=2, e1=3)
        ids = [card["id"] for card in pool.models()]
        assert ids == ["a", "both", "b"]
        await pool.stop()
        assert [card["id"] for card in pool.models()] == ids

    asyncio.run(scenario())


def test_work_goes_where_there_is_room_and_round_among_equals() -> None:
    async def scenario() -> None:
        capacity = Capacity()
        pool = two_engines(capacity)
        assert pool.choose(lambda _: 0) is None
        pool.start()
        await capacity.until(e0=2, e1=3)
        chosen = [engine.name for _ in range(4) if (engine := pool.choose(lambda _: 0))]
        assert chosen == ["e0", "e1", "e0", "e1"]
        other = pool.choose(lambda _: 0, among={"e1"})
        assert other is not None
        assert other.name == "e1"
        assert pool.choose({"e0": 2, "e1": 3}.__getitem__) is None
        assert pool.engine("e9") is None
        await pool.stop()

    asyncio.run(scenario())
