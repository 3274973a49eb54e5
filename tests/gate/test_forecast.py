"""When the refused should come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headgate.errors import Reason
from headgate.gate.forecast import APART, APART_BY_CHANCE, HOPE, HORIZON_S, Forecast, View
from headgate.gate.hold_times import HoldTimes
from headgate.gate.outcomes import Refused
from tests.gate.says import a_ledger, granted, waiting

if TYPE_CHECKING:
    from headgate.gate.ledger import Ledger

GATE = View(
    over=0, slots=4, holders=(), ready=True, weight=1, line_weight=0, head_weight=1, places=1, wake_s=None, drain_s=None
)


def measured(hold_s: float, times: int = 10) -> Forecast:
    holds = HoldTimes()
    for _ in range(times):
        holds.learn(hold_s, 1)
    return Forecast(holds)


def test_before_anything_was_measured_a_slot_comes_free_each_second() -> None:
    assert Forecast(HoldTimes()).retry_after_s(0.0, Reason.SLOTS_BUSY, GATE) == 1.0


# What is told


def test_a_heavy_request_waits_for_as_many_slots() -> None:
    assert measured(8.0).retry_after_s(0.0, Reason.SLOTS_BUSY, GATE._replace(weight=3)) == 6.0


def test_a_full_line_has_a_place_when_its_head_is_served() -> None:
    full = GATE._replace(line_weight=20, head_weight=2)
    assert measured(8.0).retry_after_s(0.0, Reason.QUEUE_FULL, full) == 4.0


def test_who_waited_too_long_is_told_when_the_whole_line_is_served() -> None:
    assert measured(8.0).retry_after_s(0.0, Reason.QUEUE_TIMEOUT, GATE._replace(line_weight=9)) == 20.0


@pytest.mark.parametrize(("eta_s", "told_s"), [(42.0, 42.0), (None, 5.0), (-1.0, 5.0)])
def test_an_engine_that_wakes_is_waited_for(eta_s: float | None, told_s: float) -> None:
    waking = GATE._replace(slots=0, ready=False, wake_s=eta_s)
    assert Forecast(HoldTimes()).retry_after_s(0.0, Reason.ENGINE_UNAVAILABLE, waking) == told_s


def test_a_line_that_is_full_while_the_engine_wakes_moves_after_it() -> None:
    waking = GATE._replace(ready=False, wake_s=30.0)
    assert measured(8.0).retry_after_s(0.0, Reason.QUEUE_FULL, waking) == 32.0


@pytest.mark.parametrize(("left_s", "told_s"), [(12.0, 12.0), (0.0, 1.0), (-3.0, 1.0)])
def test_a_drain_is_over_at_its_limit(left_s: float, told_s: float) -> None:
    assert Forecast(HoldTimes()).retry_after_s(0.0, Reason.DRAINING, GATE._replace(drain_s=left_s)) == told_s


# Bookings


def busy(forecast: Forecast, now: float, weight: int = 1) -> float:
    return forecast.retry_after_s(now, Reason.SLOTS_BUSY, GATE._replace(weight=weight))


def test_returns_are_spread_a_little_further_apart_than_slots_come_free() -> None:
    forecast = measured(8.0)
    told = [busy(forecast, 0.0) for _ in range(4)]
    assert told == pytest.approx([2.0, 2.0 + 2 * APART, 2.0 + 4 * APART, 2.0 + 6 * APART])


def test_and_further_where_an_end_may_come_at_any_time() -> None:
    holds = HoldTimes()
    for at in range(100):
        holds.learn(16.0 * (at % 2), 1)
    forecast, slot_s = Forecast(holds), holds.slot_s(0.0, 4, ())
    first_s, second_s = busy(forecast, 0.0), busy(forecast, 0.0)
    assert second_s - first_s == pytest.approx(slot_s * (APART + APART_BY_CHANCE))


def test_a_heavy_return_takes_the_place_of_several() -> None:
    forecast = measured(8.0)
    assert busy(forecast, 0.0, weight=3) == 6.0
    assert busy(forecast, 0.0) == pytest.approx(2.0 + 6 * APART)


def test_bookings_are_worked_off_in_time() -> None:
    forecast = measured(8.0)
    for _ in range(5):
        busy(forecast, 0.0)
    assert busy(forecast, 7.0) == pytest.approx(2.0 + 10 * APART - 7.0)
    assert busy(forecast, 100.0) == 2.0


def test_a_client_that_does_not_listen_sends_nobody_away_for_hours() -> None:
    forecast = measured(8.0)
    for _ in range(100_000):
        busy(forecast, 0.0)
    assert busy(forecast, 0.0) == HORIZON_S + 2.0


# With a ledger


def told_s(ledger: Ledger, now: float, weight: int = 1, size_bytes: int = 0) -> float:
    decision = ledger.offer(now, weight, size_bytes)
    assert isinstance(decision, Refused)
    return decision.retry_after_s


def test_the_ledger_measures_what_it_tells() -> None:
    ledger = a_ledger(slots=2, mode="reject")
    for start in range(10):
        ledger.leave(6.0 * start + 6.0, granted(ledger.offer(6.0 * start)))
    granted(ledger.offer(60.0, weight=2))
    assert told_s(ledger, 60.0) == 3.0


def test_who_is_too_large_for_the_line_waits_until_as_many_bytes_have_left_it() -> None:
    ledger = a_ledger(queue_max_bytes=100)
    granted(ledger.offer(0.0))
    for _ in range(10):
        waiting(ledger.offer(0.0, size_bytes=10))
    assert told_s(ledger, 0.0, size_bytes=35) == 4.0


def test_the_wake_up_time_that_the_pool_told_counts_down() -> None:
    ledger = a_ledger(slots=0, queue_max=0)
    ledger.expect(0.0, 40.0)
    assert told_s(ledger, 10.0) == 30.0


def test_a_request_for_a_million_slots_does_not_send_the_others_away() -> None:
    ledger = a_ledger(slots=2, queue_timeout_s=10.0)
    granted(ledger.offer(0.0, weight=2))
    waiting(ledger.offer(0.0, weight=1_000_000))
    waiting(ledger.offer(0.0))
    told = [verdict.retry_after_s for verdict in ledger.tick(10.0) if isinstance(verdict, Refused)]
    assert told[0] <= 2 * 10.0 + 2 * 10.0
    assert told[1] <= 2 * 10.0 + 2 * 10.0


def test_an_expectation_ends_when_an_engine_is_ready() -> None:
    ledger = a_ledger(slots=0, queue_max=0)
    ledger.expect(0.0, 40.0)
    ledger.resize(1.0, "e0", 1)
    ledger.resize(2.0, "e0", 0)
    assert told_s(ledger, 3.0) == 5.0 + 1.0


def test_slots_that_are_held_beyond_those_there_are_must_end_first() -> None:
    forecast = measured(hold_s=8.0)
    plain = forecast.retry_after_s(0.0, Reason.QUEUE_FULL, GATE)
    assert measured(hold_s=8.0).retry_after_s(0.0, Reason.QUEUE_FULL, GATE._replace(over=3)) == 4 * plain


# On arrival


def test_that_tokens_come_slower_is_no_reason_to_break_a_promise() -> None:
    holds = HoldTimes()
    holds.tempo(0.02)
    for _ in range(64):
        holds.learn(1.0, 1)
    usual_s, least_s = Forecast(holds).newcomer_s(0.0, 3, 1.0, 1, 1, ())
    assert 3.0 < usual_s <= 4.0
    assert least_s == pytest.approx(HOPE * usual_s)
    holds.tempo(0.2)
    assert Forecast(holds).newcomer_s(0.0, 3, 1.0, 1, 1, ()) == pytest.approx((10 * usual_s, least_s))
    holds.tempo(0.01)
    assert Forecast(holds).newcomer_s(0.0, 3, 1.0, 1, 1, ()) == pytest.approx((usual_s / 2, least_s / 2))


def test_a_newcomer_that_needs_more_slots_waits_for_more() -> None:
    forecast = measured(hold_s=8.0, times=64)
    light_s, _ = forecast.newcomer_s(0.0, 0, 1.0, 1, 4, ())
    heavy_s, _ = forecast.newcomer_s(0.0, 0, 1.0, 3, 4, ())
    assert heavy_s - light_s == pytest.approx(2 * 2.0)


def test_behind_long_ones_a_newcomer_waits_for_longer_the_more_of_them_there_are() -> None:
    forecast = measured(hold_s=8.0, times=64)

    def times(ahead: int) -> float:
        long_s, usual_s = (forecast.newcomer_s(0.0, ahead, length, 1, 4, ())[0] for length in (3.0, 1.0))
        return long_s / usual_s

    assert times(0) == 1.0
    assert 1.0 < times(1) < times(4) < times(40) < 3.0
    assert times(4000) == pytest.approx(3.0, rel=0.01)
