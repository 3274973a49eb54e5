"""When the refused should come back."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

import pytest

from headgate.errors import Reason
from headgate.gate.entries import Ticket
from headgate.gate.forecast import APART, HORIZON_S, Forecast, View
from headgate.gate.outcomes import Refused
from tests.gate.says import a_ledger, granted, waiting

if TYPE_CHECKING:
    from headgate.gate.ledger import Ledger

GATE = View(
    over=0, slots=4, holders=(), ready=True, weight=1, line_weight=0, head_weight=1, places=1, wake_s=None, drain_s=None
)


def measured(hold_s: float, times: int = 10) -> Forecast:
    forecast = Forecast()
    for _ in range(times):
        forecast.learn(hold_s, 1)
    return forecast


def holder(since: float, weight: int = 1) -> Ticket:
    return Ticket(1, weight, 0, 0.0, 0.0, granted_at=since)


# What is learned


def test_before_anything_was_measured_a_slot_comes_free_each_second() -> None:
    assert Forecast().retry_after_s(0.0, Reason.SLOTS_BUSY, GATE) == 1.0


def test_slots_come_free_at_slots_over_mean_hold() -> None:
    assert measured(hold_s=8.0).slot_s(100.0, 4, ()) == 2.0


def test_the_mean_is_exact_while_little_was_measured() -> None:
    forecast = Forecast()
    for hold_s in (1.0, 2.0, 6.0):
        forecast.learn(hold_s, 1)
    assert forecast.slot_s(0.0, 1, ()) == pytest.approx(3.0)


def test_a_completion_counts_for_each_slot_that_it_held() -> None:
    forecast = Forecast()
    forecast.learn(1.0, 1)
    forecast.learn(5.0, 3)
    assert forecast.slot_s(0.0, 1, ()) == pytest.approx(4.0)


def test_a_change_of_work_is_learned() -> None:
    forecast = measured(hold_s=1.0, times=1000)
    for _ in range(300):
        forecast.learn(10.0, 1)
    assert forecast.slot_s(0.0, 1, ()) == pytest.approx(10.0, rel=0.05)


def test_what_runs_for_longer_than_the_mean_counts_as_it_stands() -> None:
    forecast = measured(hold_s=2.0, times=10)
    holders = [holder(since=60.0), holder(since=99.0), holder(since=99.9)]
    assert forecast.slot_s(100.0, 1, holders) == pytest.approx((10 * 2.0 + 40.0) / 11)


def test_work_that_never_completed_raises_the_first_guess() -> None:
    assert Forecast().slot_s(100.0, 4, [holder(since=20.0)] * 4) == 20.0


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
    assert Forecast().retry_after_s(0.0, Reason.ENGINE_UNAVAILABLE, waking) == told_s


def test_a_line_that_is_full_while_the_engine_wakes_moves_after_it() -> None:
    waking = GATE._replace(ready=False, wake_s=30.0)
    assert measured(8.0).retry_after_s(0.0, Reason.QUEUE_FULL, waking) == 32.0


@pytest.mark.parametrize(("left_s", "told_s"), [(12.0, 12.0), (0.0, 1.0), (-3.0, 1.0)])
def test_a_drain_is_over_at_its_limit(left_s: float, told_s: float) -> None:
    assert Forecast().retry_after_s(0.0, Reason.DRAINING, GATE._replace(drain_s=left_s)) == told_s


# Bookings


def busy(forecast: Forecast, now: float, weight: int = 1) -> float:
    return forecast.retry_after_s(now, Reason.SLOTS_BUSY, GATE._replace(weight=weight))


def test_returns_are_spread_a_little_further_apart_than_slots_come_free() -> None:
    forecast = measured(8.0)
    told = [busy(forecast, 0.0) for _ in range(4)]
    assert told == pytest.approx([2.0, 2.0 + 2 * APART, 2.0 + 4 * APART, 2.0 + 6 * APART])


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


def test_the_time_told_for_a_line_is_the_time_that_it_takes() -> None:
    """Eight slots, random work, a line that is always full: predicted against what then happens."""
    dice = random.Random(7)
    slots, line = 8, 32
    forecast = Forecast()
    ends = [dice.expovariate(1 / 4.0) for _ in range(slots)]
    heapq.heapify(ends)
    starts = dict.fromkeys(ends, 0.0)
    freed: list[float] = []
    told: list[float] = []
    for _ in range(5000):
        now = heapq.heappop(ends)
        forecast.learn(now - starts.pop(now), 1)
        end = now + dice.expovariate(1 / 4.0)
        starts[end] = now
        heapq.heappush(ends, end)
        freed.append(now)
        told.append(forecast.slot_s(now, slots, [holder(since) for since in starts.values()]) * line)
    took = [freed[at + line] - freed[at] for at in range(200, len(freed) - line)]
    errors = [abs(told[at + 200] / took[at] - 1) for at in range(len(took))]
    assert sum(told[200:-line]) / sum(took) == pytest.approx(1.0, abs=0.25)
    assert sorted(errors)[len(errors) // 2] < 0.3


def waves(forecast: Forecast, seconds: float, per_s: float) -> list[tuple[float, float]]:
    """First tokens that take 0.2 s for 2 s and then 0.6 s for 2 s: what was said before each came, and its time."""
    told: list[tuple[float, float]] = []
    lead_s = 0.0
    for number in range(int(seconds * per_s)):
        now = number / per_s
        first_s = 0.2 if now % 4 < 2 else 0.6
        told.append((lead_s, first_s))
        lead_s = forecast.learn_first(now, first_s)
    return told


@pytest.mark.parametrize("per_s", [5.0, 100.0, 1000.0])
def test_a_slow_wave_is_remembered_while_quick_ones_come_however_many_they_are(per_s: float) -> None:
    """A memory of twenty forgot it in a fifth of a second, and the next wave was late as a whole (seen on vLLM)."""
    settled = waves(Forecast(), 20.0, per_s)[int(8 * per_s) :]
    assert all(lead_s >= first_s for lead_s, first_s in settled)


def test_first_tokens_that_seldom_come_are_remembered_by_their_number() -> None:
    forecast = Forecast()
    for number in range(30):
        lead_s = forecast.learn_first(60.0 * number, 0.6 if number == 15 else 0.2)
    assert lead_s > 0.3
    for number in range(30, 400):
        lead_s = forecast.learn_first(60.0 * number, 0.2)
    assert lead_s == pytest.approx(0.2, abs=0.01), "and not for ever"


def test_of_a_single_first_token_twice_its_time_is_allowed() -> None:
    assert Forecast().learn_first(5.0, 0.3) == pytest.approx(0.6)


# The tempo of tokens


def test_where_tokens_come_slower_slots_are_held_longer_before_anybody_has_ended() -> None:
    forecast = Forecast()
    forecast.tempo(0.02)
    for _ in range(40):
        forecast.learn(1.0, 1)
    assert forecast.slot_s(0.0, 4, ()) == pytest.approx(0.25)
    forecast.tempo(0.1)
    assert forecast.slot_s(0.0, 4, ()) == pytest.approx(1.25)
    forecast.tempo(0.016)
    assert forecast.slot_s(0.0, 4, ()) == pytest.approx(0.2)


def test_as_those_end_the_measured_time_takes_over() -> None:
    forecast = Forecast()
    forecast.tempo(0.02)
    for _ in range(64):
        forecast.learn(1.0, 1)
    forecast.tempo(0.1)
    for _ in range(640):
        forecast.learn(5.0, 1)
        assert 4.0 < 4 * forecast.slot_s(0.0, 4, ()) < 9.0
    assert forecast.slot_s(0.0, 4, ()) == pytest.approx(1.25, rel=0.01)


def test_one_strange_tempo_does_not_make_hours_of_seconds() -> None:
    forecast = Forecast()
    forecast.tempo(0.001)
    for _ in range(40):
        forecast.learn(1.0, 1)
    forecast.tempo(10.0)
    assert forecast.slot_s(0.0, 1, ()) == 16.0


def test_before_anybody_has_ended_answers_are_as_long_as_expected() -> None:
    forecast = Forecast()
    forecast.learn_first(1.0, 0.5)
    forecast.tempo(0.1)
    holders = [holder(0.0), holder(0.0)]
    for ticket, answer in zip(holders, (20.0, 60.0), strict=True):
        ticket.claim = ticket.claim._replace(answer=answer)
    assert forecast.slot_s(0.0, 2, holders) == pytest.approx((0.5 + 4.0) / 2)
    assert forecast.slot_s(0.0, 2, ()) == 1.0, "and where nobody runs nothing is known"


def test_a_probe_for_one_token_says_little_of_those_that_run() -> None:
    forecast = Forecast()
    forecast.learn(0.04, 1)
    forecast.tempo(0.1)
    running = holder(0.0)
    running.claim = running.claim._replace(answer=40.0)
    assert forecast.slot_s(0.0, 1, [running]) == pytest.approx(4.0, rel=0.05)
    for _ in range(31):
        forecast.learn(3.0, 1)
    assert forecast.slot_s(0.0, 1, [running]) == pytest.approx(3.0, rel=0.05), "those that have ended are gone by"


def test_slots_that_are_held_beyond_those_there_are_must_end_first() -> None:
    forecast = measured(hold_s=8.0)
    plain = forecast.retry_after_s(0.0, Reason.QUEUE_FULL, GATE)
    assert measured(hold_s=8.0).retry_after_s(0.0, Reason.QUEUE_FULL, GATE._replace(over=3)) == 4 * plain


def test_that_tokens_come_slower_is_no_reason_to_break_a_promise() -> None:
    forecast = Forecast()
    forecast.tempo(0.02)
    for _ in range(40):
        forecast.learn(1.0, 1)
    forecast.tempo(0.2)
    assert forecast.slot_s(0.0, 1, ()) == pytest.approx(10.0)
    assert forecast.hopeful_s(0.0, 0, 1, ()) == pytest.approx(0.75)
    forecast.tempo(0.01)
    assert forecast.hopeful_s(0.0, 0, 1, ()) == pytest.approx(0.375)
