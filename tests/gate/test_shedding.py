"""The chance of being turned away, by load, latency and priority."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.shedding import CHANCE_AT_FULL, Shedder


def test_nobody_is_shed_below_seventy_per_cent() -> None:
    shedder = Shedder()
    assert shedder.chance(0, 100) == 0
    assert shedder.chance(69, 100) == 0


def test_the_chance_grows_to_a_tenth_and_then_all_are_refused() -> None:
    shedder = Shedder()
    assert 0 < shedder.chance(80, 100) < shedder.chance(95, 100) < CHANCE_AT_FULL
    assert shedder.chance(100, 100) == 1


def test_slow_answers_are_load_too_and_the_last_hundred_count() -> None:
    shedder = Shedder(full_s=5.0)
    for _ in range(200):
        shedder.learn(4.25)
    assert shedder.load(1, 100) == 4.25 / 5
    for _ in range(100):
        shedder.learn(1.0)
    assert abs(shedder.load(1, 100) - 0.2) < 1e-9
    assert shedder.load(0, 100) == 0, "an empty line is not full"


def test_low_priorities_are_shed_first_and_high_ones_last() -> None:
    shedder = Shedder()
    assert shedder.chance(65, 100, rank=1) > 0
    assert shedder.chance(65, 100) == 0
    assert shedder.chance(85, 100) > shedder.chance(85, 100, rank=-1)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(-10, 10), st.lists(st.floats(0, 100), max_size=150))
def test_it_is_a_chance_and_grows_with_the_line(one: int, other: int, rank: int, latencies: list[float]) -> None:
    shedder = Shedder()
    for latency_s in latencies:
        shedder.learn(latency_s)
    less, more = sorted((one, other))
    assert 0 <= shedder.chance(less, 100, rank) <= shedder.chance(more, 100, rank) <= 1
