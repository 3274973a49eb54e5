from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workbench.bench.figures import RANKS, jain, median, percentile, spread

VALUES = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=300)
SHARES = st.lists(st.floats(0, 1e6), min_size=2, max_size=50)


@settings(deadline=None)
@given(VALUES, st.floats(0, 100))
def test_a_percentile_is_a_measured_value_that_enough_are_not_above(values: list[float], rank: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, rank)
    assert found in values
    assert sum(value <= found for value in values) >= rank / 100 * len(values) - 1e-6
    assert sum(value < found for value in values) <= rank / 100 * len(values)


def test_percentiles_are_nearest_rank() -> None:
    thousand = list(range(1, 1001))
    assert [percentile(thousand, rank) for rank in (0, 50, 95, 99, 99.9, 100)] == [1, 500, 950, 990, 999, 1000]
    assert percentile([1, 2], 50) == 1
    assert percentile(list(range(1, 51)), 99) == 50, "too few to tell: the largest"


@settings(deadline=None)
@given(VALUES)
def test_a_spread_is_in_order_whatever_order_the_values_came_in(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found == spread(reversed(values))
    steps = [found.min, found.p50, found.p90, found.p95, found.p99, found.p999, found.max]
    assert steps == sorted(steps)
    assert found.min <= found.mean <= found.max
    assert found.count == len(values)
    ordered = sorted(values)
    assert [found.at(name) for name in RANKS] == [percentile(ordered, rank) for name, rank in RANKS.items()]
    assert found.mean == pytest.approx(sum(values) / len(values))


def test_a_spread_of_nothing_is_none() -> None:
    assert spread([]) is None
    assert median([]) is None
    assert median([None, None]) is None


@settings(deadline=None)
@given(SHARES)
def test_jains_index_lies_between_one_for_all_and_all_for_one(shares: list[float]) -> None:
    found = jain(shares)
    if not any(shares):
        assert found is None
        return
    assert found is not None
    assert 1 / len(shares) - 1e-9 <= found <= 1


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e3), min_size=2, max_size=50), st.floats(0.001, 1e3), st.randoms())
def test_jains_index_knows_neither_order_nor_unit(shares: list[float], unit: float, dice: object) -> None:
    mixed = sorted(shares, key=lambda _: dice.random())  # type: ignore[attr-defined]
    assert jain([share * unit for share in mixed]) == pytest.approx(jain(shares))


def test_jains_index_of_known_cases() -> None:
    assert jain([3, 3, 3]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
    assert jain([1, 1, 0, 0]) == 0.5
    assert jain([5e-324, 5e-324]) == 1
    assert jain([4]) is None


def test_the_median_is_of_those_that_are_there() -> None:
    assert median([3, None, 1, 2]) == 2
    assert median([4, 1, 3, 2]) == 2.5
