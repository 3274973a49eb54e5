"""The loop's lateness, on a loop and a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from headgate.telemetry.lag import EVERY_S, KEPT, LoopLag


class Hand:
    """A loop that does what it is told, when it is told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[Callable[[], None]] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        assert delay == EVERY_S
        self.due.append(call)

    def tick(self, late_s: float) -> None:
        self.now += EVERY_S + late_s
        (call,) = self.due
        self.due.clear()
        call()


@pytest.fixture
def hand() -> Hand:
    return Hand()


def ticking(hand: Hand) -> LoopLag:
    return LoopLag(cast("asyncio.AbstractEventLoop", hand), lambda: hand.now)


def test_nothing_is_late_at_the_start(hand: Hand) -> None:
    assert ticking(hand).worst_s() == 0.0


def test_worst_of_the_last_ticks_is_told_and_then_forgotten(hand: Hand) -> None:
    lag = ticking(hand)
    hand.tick(0.5)
    hand.tick(0.1)
    assert lag.worst_s() == pytest.approx(0.5)
    for _ in range(KEPT - 1):
        hand.tick(0.1)
    assert lag.worst_s() == pytest.approx(0.1)


def test_tick_that_is_overdue_counts_before_it_comes(hand: Hand) -> None:
    lag = ticking(hand)
    hand.now += EVERY_S + 3
    assert lag.worst_s() == pytest.approx(3)


def test_tick_that_comes_early_is_not_late(hand: Hand) -> None:
    lag = ticking(hand)
    hand.tick(-0.001)
    assert lag.worst_s() == 0.0


def test_real_loop_that_is_held_up_says_so() -> None:
    async def held_up() -> float:
        loop = asyncio.get_running_loop()
        now = loop.time()
        lag = LoopLag(loop, lambda: now)
        now += EVERY_S + 7
        return lag.worst_s()

    assert asyncio.run(held_up()) == pytest.approx(7)
