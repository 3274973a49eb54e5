"""The last five minutes: rates and quantiles from differences."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.telemetry.recent import KEPT, LATELY, Levels, Point, Recent, Totals, quantile

BOUNDS = (0.1, 0.5, 1.0)
IDLE = Levels(0, 8, 0)
NONE = (0, 0, 0, 0)


def test_rates_are_what_was_counted_over_the_time_that_really_passed() -> None:
    recent = Recent(100.0, BOUNDS)
    recent.add(101.0, 1.0, IDLE, Totals(5, {"queue_full": 1}, 40, NONE))
    late = recent.add(103.5, 3.5, Levels(3, 8, 2), Totals(15, {"queue_full": 4, "draining": 2}, 140, NONE))
    assert (late.requests_per_s, late.refused_per_s, late.tokens_per_s) == (4.0, 2.0, 40.0)
    assert (late.active, late.max_active, late.queue, late.t) == (3, 8, 2, 3.5)
    assert recent.newest == late


def test_tokens_taken_back_make_no_negative_rate() -> None:
    recent = Recent(0.0, BOUNDS)
    recent.add(1.0, 1.0, IDLE, Totals(0, {}, 100, NONE))
    assert recent.add(2.0, 2.0, IDLE, Totals(0, {}, 90, NONE)).tokens_per_s == 0.0


def test_quantiles_forget_what_is_older_than_their_window() -> None:
    recent = Recent(0.0, BOUNDS)
    seen = [recent.add(1.0, 1.0, IDLE, Totals(0, {}, 0, (0, 10, 0, 0))).ttft_p50_s]
    seen += [recent.add(at, at, IDLE, Totals(0, {}, 0, (0, 10, 0, 0))).ttft_p50_s for at in range(2, LATELY + 2)]
    assert seen == [0.3] * LATELY + [None]


def test_refusals_by_reason_are_those_of_late() -> None:
    recent = Recent(0.0, BOUNDS)
    recent.add(1.0, 1.0, IDLE, Totals(0, {"queue_full": 3}, 0, NONE))
    recent.add(2.0, 2.0, IDLE, Totals(0, {"queue_full": 5, "draining": 1}, 0, NONE))
    assert recent.refused == {"queue_full": 5, "draining": 1}
    for at in range(LATELY - 1):
        recent.add(at + 3.0, 0.0, IDLE, Totals(0, {"queue_full": 5, "draining": 1}, 0, NONE))
    assert recent.refused == {"queue_full": 2, "draining": 1}
    recent.add(50.0, 0.0, IDLE, Totals(0, {"queue_full": 5, "draining": 1}, 0, NONE))
    assert recent.refused == {}


def test_only_the_last_points_are_kept_and_columns_are_of_one_length() -> None:
    recent = Recent(0.0, BOUNDS)
    empty = recent.columns()
    assert empty == {"step_s": 1, **{name: [] for name in Point._fields}}
    for at in range(KEPT + 7):
        recent.add(at + 1.0, at, IDLE, Totals(at, {}, 0, NONE))
    columns = recent.columns()
    assert columns.pop("step_s") == 1
    assert set(columns) == set(Point._fields)
    assert columns["t"] == list(range(7, KEPT + 7))
    assert all(isinstance(column, list) and len(column) == KEPT for column in columns.values())


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        (NONE, 0.5, None),
        ((4, 0, 0, 0), 0.5, 0.05),
        ((0, 1, 0, 0), 0.95, 0.48),
        ((1, 1, 0, 0), 0.5, 0.1),
        ((0, 0, 0, 3), 0.5, 1.0),
        ((99, 0, 0, 1), 0.95, 0.096),
    ],
)
def test_quantile_of_buckets(counts: tuple[int, ...], share: float, expected: float | None) -> None:
    assert quantile(share, BOUNDS, counts) == (expected if expected is None else pytest.approx(expected, abs=1e-4))


@given(st.integers(1, 300), st.floats(0.01, 1.0), st.integers(0, 2**16))
def test_quantile_lies_in_the_bucket_of_the_true_one(count: int, share: float, seed: int) -> None:
    dice = random.Random(seed)
    values = sorted(dice.uniform(0.0, 1.0) for _ in range(count))
    counts = [0] * (len(BOUNDS) + 1)
    for value in values:
        counts[bisect_left(BOUNDS, value)] += 1
    true = next(value for at, value in enumerate(values, 1) if at >= share * count)
    bucket = bisect_left(BOUNDS, true)
    seen = quantile(share, BOUNDS, counts)
    assert seen is not None
    assert (0.0, *BOUNDS)[bucket] <= seen <= BOUNDS[bucket]
