"""What a limit promises: no more than it says over any window, and who waits as told gets in."""

from __future__ import annotations

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.rates import Charge, Rate, Rates, duration, remaining

a_rate = st.builds(Rate, st.floats(0.1, 1e5), st.floats(1, 1000))
gaps = st.lists(st.floats(0, 120), min_size=1, max_size=80)


def charge(rate: Rate, cost: float = 1.0, bucket: str = "a") -> Charge:
    return Charge(bucket, rate, cost, settles=True)


def full_in_s(rates: Rates, now: float, bucket: str = "a") -> float:
    """Until a bucket is full, without taking of it."""
    return rates.take(now, [Charge(bucket, Rate(1.0, 1.0), 0.0)]).ahead_s[0]


@given(a_rate, gaps)
def test_over_any_window_no_more_than_the_rate_and_one_burst_pass(rate: Rate, between: list[float]) -> None:
    rates, now, passed = Rates(), 1e6, []
    for gap in between:
        now += gap / rate.per_min  # around the rate, whatever it is
        for _ in range(3):
            passed += [] if rates.take(now, [charge(rate)]).wait_s else [now]
    for first, since in enumerate(passed):
        for last in range(first, len(passed)):
            most = (passed[last] - since) / rate.interval_s + rate.burst
            assert last - first + 1 <= most + 0.01


@given(a_rate, st.lists(st.floats(0.5, 2000), min_size=1, max_size=60))
def test_tokens_over_any_window_stay_under_the_rate_a_burst_and_one_debt(rate: Rate, costs: list[float]) -> None:
    """A request over a whole burst passes when the bucket is full, and is paid off before the next."""
    rates, now, passed = Rates(), 1e6, []
    for cost in costs:
        now += rates.take(now, [charge(rate, cost)]).wait_s
        if not rates.take(now, [charge(rate, cost)]).wait_s:
            passed.append((now, cost))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            took = sum(cost for _, cost in passed[first : last + 1])
            window = (passed[last][0] - passed[first][0]) / rate.interval_s
            debt = max(passed[last][1] - rate.burst, 0.0)
            assert took <= window + rate.burst + debt + 0.1


@given(a_rate, st.lists(st.floats(0.5, 2000), min_size=1, max_size=40))
def test_who_waits_as_long_as_told_passes_and_not_much_earlier(rate: Rate, costs: list[float]) -> None:
    rates, now = Rates(), 1e6
    for cost in costs:
        told = rates.take(now, [charge(rate, cost)])
        if told.wait_s:
            if told.wait_s > 1e-3:
                assert rates.take(now + told.wait_s - 1e-3, [charge(rate, cost)]).wait_s
            now += told.wait_s
            assert not rates.take(now, [charge(rate, cost)]).wait_s


@given(a_rate, st.floats(0, 2000), st.floats(0, 2000), st.floats(0, 100))
def test_what_is_settled_is_as_if_it_had_been_known_at_once(
    rate: Rate, guess: float, used: float, spent: float
) -> None:
    guessed, known, now = Rates(), Rates(), 1e6
    for rates, cost in ((guessed, guess), (known, used)):
        rates.take(now, [charge(rate, min(spent, rate.burst))])
        if rates.take(now, [charge(rate, cost)]).wait_s:
            return
    guessed.settle(now, charge(rate, guess), used)
    assert full_in_s(guessed, now) == pytest.approx(full_in_s(known, now), abs=1e-3)


@given(a_rate, st.lists(st.tuples(st.floats(0, 500), st.floats(0, 500)), min_size=1, max_size=30))
def test_when_all_is_settled_the_bucket_owes_no_less_than_what_was_used(
    rate: Rate, requests: list[tuple[float, float]]
) -> None:
    """Whatever the estimates were; while the bucket is never full in between, exactly what was used."""
    rates, now = Rates(), 1e6
    taken = [charge(rate, guess) for guess, _ in requests]
    passed = [i for i, each in enumerate(taken) if not rates.take(now, [each]).wait_s]
    for i in passed:
        rates.settle(now, taken[i], requests[i][1])
    owed = sum(requests[i][1] for i in passed) * rate.interval_s
    assert full_in_s(rates, now) >= owed - 1e-3


def test_a_request_is_taken_of_all_its_buckets_or_of_none() -> None:
    wide, narrow = Rate(60, 10), Rate(60, 1)
    rates = Rates()
    both = [charge(wide, bucket="wide"), charge(narrow, bucket="narrow")]
    assert rates.take(0.0, both).wait_s == 0
    refused = rates.take(0.0, both)
    assert refused.wait_s == pytest.approx(1.0)
    assert refused.blocking(both).bucket == "narrow"
    assert refused.ahead_s == (1.0, 1.0), "nothing was taken"
    assert rates.take(1.0, both).wait_s == 0


def test_a_refund_never_makes_a_bucket_more_than_full() -> None:
    rate, rates = Rate(60, 10), Rates()
    rates.take(0.0, [charge(rate, 10)])
    rates.settle(100.0, charge(rate, 10), 0)
    assert [rates.take(100.0, [charge(rate)]).wait_s == 0 for _ in range(11)] == [True] * 10 + [False]


def test_more_than_was_thought_is_paid_even_after_the_bucket_has_filled() -> None:
    rate, rates = Rate(60, 10), Rates()
    rates.take(0.0, [charge(rate, 1)])
    rates.settle(100.0, charge(rate, 1), 9)
    assert full_in_s(rates, 100.0) == pytest.approx(8.0)


def test_what_somebody_else_says_of_a_bucket_counts() -> None:
    rates = Rates()
    rates.put(5.0, "a", 3.0)
    assert full_in_s(rates, 6.0) == pytest.approx(2.0)
    assert floor(remaining(Rate(60, 10), 2.0)) == 8
    assert remaining(Rate(60, 10), 99.0) == 0


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0004, "0s"),
        (0.02, "20ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9996, "1m0s"),
        (360, "6m0s"),
        (3661.5, "1h1m1.5s"),
    ],
)
def test_times_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    assert duration(seconds) == written
