"""What a look at the house costs, in µs and bytes: ``python -m tests.flow.measure_status``. It judges nothing.

1,000 hold slots and 10,000 of 140 users wait, in the default order. Each figure is the least of many, so that what else
the machine does hardly shows.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable

from headgate.api.auth import Keys
from headgate.api.events import event
from headgate.call import Asker, Limits
from headgate.flow import Flow
from headgate.gate import Claim, Gate, Ledger, make_order
from headgate.openai import Dialect
from headgate.picture import Picture
from headgate.pool.pool import Pool
from headgate.relay.reply import Plan, Reply
from headgate.settings import load
from headgate.telemetry.gpu import Gpus
from headgate.telemetry.lag import LoopLag
from headgate.telemetry.logs import RequestLog
from headgate.telemetry.metrics import Metrics
from headgate.telemetry.nvml import Driver
from headgate.telemetry.slo import Objectives
from tests.flow.test_flow import OneEngine
from tests.relay.test_reply import Client

RUNNING = 1_000
WAITING = 10_000
ROUNDS = 50


def _asker() -> Asker:
    reply = Reply(
        Client(),
        Plan(Dialect.OPENAI, streamed=True, wants_usage=False),
        loop=asyncio.get_running_loop(),
        clock=time.monotonic,
        arrived=time.monotonic(),
        headers=[],
        first=lambda _: None,
        gap=lambda _: None,
        trouble=lambda: None,
        retry_after_s=lambda: 1.0,
    )
    return Asker("anonymous", "headgate-simulated", True, 200, reply)


def least_us(look: Callable[[], object]) -> float:
    least = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        look()
        least = min(least, time.perf_counter() - started)
    return least * 1e6


async def measure() -> None:
    gate = Gate(Ledger(queue_max=WAITING, order=make_order("fair")))
    gate.resize("e0", RUNNING)
    metrics = Metrics()
    log = RequestLog(io.StringIO(), as_json=True, level="error")
    flow = Flow(gate, OneEngine(None), metrics, log, Limits(300.0, 15.0), time.monotonic)
    picture = Picture(
        load({}, {}),
        gate,
        flow,
        Pool([]),
        metrics,
        Objectives(),
        LoopLag(asyncio.get_running_loop(), time.monotonic),
        Gpus(Driver(None), clock=time.monotonic),
        Keys(None, "admin-key"),
        draining=lambda: False,
        clock=time.monotonic,
    )
    asker = _asker()
    for _ in range(RUNNING):
        who = _asker()
        flow._running[who.reply] = "e0"
        assert gate.acquire_nowait(who=who) is not None
    claims = [Claim(f"key {at % 20}", f"user {at % 7}", tokens=100.0 + at % 11, within_s=1.0) for at in range(WAITING)]
    waiters = [asyncio.create_task(gate.acquire(claim=claim, who=asker)) for claim in claims]
    await asyncio.sleep(0)
    for second in range(300):
        picture.tick(float(second))
    print(gate)
    for what, look in (
        ("a tick of the recorder", lambda: picture.tick(0.0)),
        ("/status", picture.status),
        ("/status?recent=1", picture.status_with_recent),
        ("a second's event, encoded", lambda: event(picture.status_with_point())),
        ("a viewer's first event, encoded", lambda: event(picture.status_with_recent())),
    ):
        seen = look()
        size = f", {len(seen):,} bytes" if isinstance(seen, bytes) else ""
        print(f"{what}: {least_us(look):.0f} µs{size}")
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(measure())
