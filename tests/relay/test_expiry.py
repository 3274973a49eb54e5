"""One timer for many time limits: each is told of once, at its time, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from headgate.relay.expiry import Expiry


class Loop:
    """A loop whose timers go off when its time is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.armed: list[_Timer] = []

    def call_later(self, delay_s: float, ring: Callable[[], object]) -> _Timer:
        timer = _Timer(self.now + delay_s, ring)
        self.armed.append(timer)
        return timer

    def run_until(self, then: float) -> None:
        while due := [timer for timer in self.armed if not timer.cancelled and timer.at <= then]:
            first = min(due, key=lambda timer: timer.at)
            self.armed.remove(first)
            self.now = max(self.now, first.at)
            first.ring()
        self.now = then
        self.armed = [timer for timer in self.armed if not timer.cancelled]


class _Timer:
    def __init__(self, at: float, ring: Callable[[], object]) -> None:
        self.at, self.ring, self.cancelled = at, ring, False

    def cancel(self) -> None:
        self.cancelled = True


def expiry(loop: Loop, told: list[tuple[int, float]]) -> Expiry[int]:
    return Expiry(
        cast("asyncio.AbstractEventLoop", cast("Any", loop)),
        lambda: loop.now,
        lambda each: told.append((each, loop.now)),
    )


# Whole seconds: the timer comes a millisecond late, and no other deadline may lie in between.
step = st.tuples(st.sampled_from(["watch", "forget", "pass"]), st.integers(0, 30), st.integers(0, 20))


@given(st.lists(step, max_size=200))
def test_each_is_told_of_once_and_in_time_unless_it_is_forgotten_before(steps: list[tuple[str, int, int]]) -> None:
    loop, told = Loop(), list[tuple[int, float]]()
    limits = expiry(loop, told)
    live: dict[int, float] = {}
    numbers: dict[int, int] = {}
    expected: list[tuple[int, float]] = []

    def pass_to(then: float) -> None:
        for each, at in sorted(live.items(), key=lambda pair: pair[1]):
            if at + 0.001 <= then:
                expected.append((each, at))
                del live[each]
        loop.run_until(then)

    for what, each, by in steps:
        if what == "watch" and each not in live:
            live[each] = loop.now + by
            numbers[each] = limits.watch(each, live[each])
        elif what == "forget":
            live.pop(each, None)
            limits.forget(numbers.get(each, 0))
        elif what == "pass":
            pass_to(loop.now + by)
            loop.run_until(loop.now)
    pass_to(loop.now + 100.0)
    assert sorted(each for each, _ in told) == sorted(each for each, _ in expected)
    by_each: dict[int, list[float]] = {}
    for each, at in expected:
        by_each.setdefault(each, []).append(at)
    for each, at in told:
        assert by_each[each].pop(0) <= at
    assert len(limits) == 0
    assert not loop.armed


def test_one_timer_serves_all_and_the_forgotten_do_not_pile_up() -> None:
    loop = Loop()
    limits = expiry(loop, [])
    for each in range(10_000):
        limits.forget(limits.watch(each, 300.0 + each))
    assert len(limits) == 0
    assert len(limits._heap) < 200
    assert len([timer for timer in loop.armed if not timer.cancelled]) <= 1
