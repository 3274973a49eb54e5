"""The model in real time: which moments count."""

from __future__ import annotations

import asyncio

from headgate.simulator.answer import Plan
from headgate.simulator.constants import Constants, Limits
from headgate.simulator.engine import Engine
from headgate.simulator.metrics import Statistics
from headgate.simulator.scheduler import Scheduler


def test_latency_begins_when_the_request_was_there_and_not_when_it_was_read() -> None:
    async def submit() -> Engine:
        limits = Limits()
        engine = Engine(Scheduler(Constants(latency_s=0.5), limits), Statistics(limits.max_model_len))
        answer = engine.submit([Plan(8, ["a"])], came=10.0)
        assert [each.arrived_s for each in answer.sequences] == [10.0]
        return engine

    assert asyncio.run(submit()).scheduler.next_s == 10.5
