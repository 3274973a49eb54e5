"""What numbers of slots gave is remembered by bands, for a while, and only where enough was seen."""

from __future__ import annotations

import pytest

from headgate.gate.yields import BAND, FRESH_S, KNOWN_AFTER_S, Yields


def used(yields: Yields, slots: int, good: float, seconds: int) -> None:
    for _ in range(seconds):
        yields.pass_by(1.0)
        yields.note(slots, good, 1.0)


def test_what_was_seen_for_a_moment_says_nothing() -> None:
    yields = Yields()
    used(yields, 100, 50.0, int(KNOWN_AFTER_S) - 1)
    assert yields.of(100) is None
    used(yields, 100, 50.0, 1)
    assert yields.of(100) == pytest.approx(50)


def test_numbers_near_to_each_other_are_one() -> None:
    yields = Yields()
    used(yields, 100, 50.0, 3)
    used(yields, 104, 60.0, 3)
    assert yields.of(102) == pytest.approx(55, rel=0.05)
    assert yields.of(100 * BAND) is None
    assert yields.best_above(102) is None


def test_the_best_of_more_slots_is_the_one_that_gave_most() -> None:
    yields = Yields()
    for slots, good in ((60, 40.0), (100, 70.0), (150, 90.0), (220, 50.0)):
        used(yields, slots, good, 5)
    assert yields.best_above(60) == pytest.approx((150, 90))
    assert yields.best_above(150) == pytest.approx((220, 50))
    assert yields.best_above(220) is None


def test_what_was_seen_long_ago_is_not_believed_and_does_not_count_again() -> None:
    yields = Yields()
    used(yields, 100, 50.0, 10)
    yields.pass_by(FRESH_S + 1)
    assert yields.of(100) is None
    used(yields, 100, 10.0, 5)
    assert yields.of(100) == pytest.approx(10)


def test_later_seconds_count_for_more() -> None:
    yields = Yields()
    used(yields, 100, 50.0, 10)
    used(yields, 100, 10.0, 10)
    assert 10 < yields.of(100) < 30  # type: ignore[operator]  # it is known
