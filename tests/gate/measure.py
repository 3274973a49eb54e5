"""What the gate costs, in µs: ``python -m tests.gate.measure``. Not a test: it says, and judges nothing.

Each figure is the least of many short batches, so that whatever else the machine does hardly shows.
"""

from __future__ import annotations

import itertools
import random
import time
from contextlib import suppress
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from headgate.gate import Claim, Gate, Ledger, make_order
from headgate.gate.orders import ORDERS, Name
from headgate.gate.outcomes import Granted
from tests.gate.says import granted, served, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.gate.entries import Ticket
    from headgate.gate.outcomes import Decision

WITHIN = (*[1e6] * 99, 0.5)
BATCH = 200
BATCHES = 400


def least_us(batch: Callable[[], None]) -> float:
    """The least time of a batch's ``BATCH`` rounds, for one round."""
    least = float("inf")
    for _ in range(BATCHES):
        started = time.perf_counter()
        batch()
        least = min(least, time.perf_counter() - started)
    return least / BATCH * 1e6


def uncontended() -> None:
    gate = Gate(Ledger())
    gate.resize("e0", 64)

    async def acquire_and_release() -> None:
        for _ in range(BATCH):
            (await gate.acquire(size_bytes=1000, request_timeout_s=300.0)).release()

    def batch() -> None:
        with suppress(StopIteration):
            acquire_and_release().send(None)

    print(f"acquire + release, a slot free: {least_us(batch):.1f}")


def refused() -> None:
    ledger = Ledger(queue_mode="reject")
    ledger.resize(0.0, "e0", 64)
    for at in range(64):
        ledger.offer(at / 10)

    def batch() -> None:
        for _ in range(BATCH):
            ledger.offer(6.4)

    print(f"offer + refusal, 64 slots held: {least_us(batch):.1f}")


def contended(order: Name, length: int) -> None:
    """``length`` wait, of 50 keys with 200 users; all but one in a hundred could still be in time."""
    ledger = Ledger(queue_max=10**9, queue_max_bytes=10**15, queue_timeout_s=1e9, order=make_order(order))
    ledger.resize(0.0, "e0", 1)
    dice = random.Random(1)
    claims = [
        Claim(f"k{dice.randrange(50)}", f"u{dice.randrange(200)}", tokens=dice.random(), within_s=dice.choice(WITHIN))
        for _ in range(997)
    ]
    turn = itertools.cycle(claims)
    running = granted(ledger.offer(0.0))
    for _ in range(length):
        waiting(ledger.offer(0.0, 1, 1000, 300.0, claim=next(turn)))

    def batch() -> None:
        nonlocal running
        for _ in range(BATCH):
            ledger.offer(1.0, 1, 1000, 300.0, claim=next(turn))
            ledger.tick(1.0)
            (running,) = served(ledger.leave(1.0, running))

    print(f"offer + wait + tick + leave + grant, {order}, {length} in line: {least_us(batch):.1f}")


def overloaded(order: Name) -> None:
    """400 a second come to 75 slots held for 0.4 to 1.2 s: the line of 256 is full, and most are refused."""
    ledger = Ledger(queue_max=256, order=make_order(order))
    ledger.resize(0.0, "e0", 75)
    dice = random.Random(1)
    claims = [Claim(f"k{i % 5}", f"u{i}", tokens=100.0, within_s=1.0) for i in range(40)]
    held: list[tuple[float, int, Ticket]] = []
    now = 0.0

    def begin(decisions: Sequence[Decision], at: float) -> None:
        for decision in decisions:
            if isinstance(decision, Granted):
                ticket = decision.ticket
                heappush(held, (at + 0.4 + 0.8 * dice.random(), ticket.number, ticket))

    def batch() -> None:
        nonlocal now
        for _ in range(BATCH):
            now += dice.expovariate(400)
            while held and held[0][0] <= now:
                at, _, ticket = heappop(held)
                begin(ledger.leave(at, ticket), at)
            begin(ledger.tick(now), now)
            begin([ledger.offer(now, 1, 1000, 300.0, claim=dice.choice(claims))], now)

    for _ in range(10):  # 5 s, until the line is full
        batch()
    print(f"each that comes to a full line, {order}, 400/s where 94/s are served: {least_us(batch):.1f}")


if __name__ == "__main__":
    uncontended()
    refused()
    for order in ORDERS:
        overloaded(order)
    for order in ORDERS:
        for length in (100, 10_000, 100_000):
            contended(order, length)
