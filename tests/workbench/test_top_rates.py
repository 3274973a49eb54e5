from __future__ import annotations

from math import inf

import pytest

from headgate.workbench.top.picture import Family, Process, Sample, Status
from headgate.workbench.top.rates import Reading, Window, between, quantile, read
from headgate.workbench.top.words import bar, rate, span


def test_rates_are_differences_over_the_time_between() -> None:
    old = Reading(10.0, ended={"ok": 5}, tokens={"completion": 100}, gaps={0.1: 3, inf: 3}, cpu_s=1.0)
    new = Reading(
        12.0,
        ended={"ok": 9, "queue_full": 6, "client_left": 2, "engine_failed": 4},
        tokens={"completion": 300, "completion_estimated": 10, "prompt": 50},
        refused={"queue_full": 6},
        gaps={0.1: 43, inf: 43},
        cpu_s=1.5,
    )
    rates = between(old, new)
    assert (rates.requests_per_s, rates.ok_per_s, rates.refused_per_s) == (8.0, 2.0, 3.0)
    assert (rates.left_per_s, rates.failed_per_s) == (1.0, 2.0)
    assert (rates.tokens_out_per_s, rates.tokens_in_per_s, rates.events_per_s) == (105.0, 25.0, 20.0)
    assert rates.cpu == 0.25
    assert rates.refused_by_reason_per_s == {"queue_full": 3.0}


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    buckets = {0.1: 0.0, 0.2: 10.0, 0.4: 20.0, inf: 20.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.2)
    assert quantile(buckets, 0.95) == pytest.approx(0.38)
    assert quantile({0.1: 4.0, inf: 4.0}, 0.5) == pytest.approx(0.05)


def test_a_quantile_beyond_all_buckets_is_the_last_bound_and_of_nothing_is_none() -> None:
    assert quantile({0.1: 0.0, 60.0: 1.0, inf: 10.0}, 0.95) == 60.0
    assert quantile({0.1: 0.0, inf: 0.0}, 0.5) is None
    assert quantile({}, 0.5) is None


def test_quantiles_are_of_the_interval_and_not_of_all_time() -> None:
    old = Reading(0.0, ttft={0.1: 1000.0, 1.0: 1000.0, inf: 1000.0})
    new = Reading(1.0, ttft={0.1: 1000.0, 1.0: 1010.0, inf: 1010.0})
    assert between(old, new).ttft_p50_s == pytest.approx(0.55)


def test_the_window_compares_with_the_reading_ten_seconds_ago() -> None:
    window = Window(10.0)
    window.add(Reading(0.0, uptime_s=0.0))
    assert window.rates() is None
    for second in range(1, 31):
        window.add(Reading(float(second), uptime_s=float(second), ended={"ok": float(second)}))
    rates = window.rates()
    assert rates is not None
    assert (rates.over_s, rates.ok_per_s) == (10.0, 1.0)


def test_a_restarted_gateway_starts_a_new_window() -> None:
    window = Window()
    window.add(Reading(0.0, uptime_s=500.0, ended={"ok": 900.0}))
    window.add(Reading(1.0, uptime_s=0.3, ended={"ok": 1.0}))
    assert window.rates() is None
    window.add(Reading(2.0, uptime_s=1.3, ended={"ok": 3.0}))
    rates = window.rates()
    assert rates is not None
    assert rates.ok_per_s == 2.0


def test_requests_for_metrics_are_not_counted_as_work() -> None:
    def ended(route: str, value: float) -> Sample:
        return Sample("api_requests_total", {"route": route, "reason": "ok"}, value)

    metrics = {"api_requests": Family([ended("/metrics", 70.0), ended("/v1/completions", 3.0)])}
    status = Status("0", True, process=Process(cpu_s=4.0))
    reading = read(5.0, status, metrics, {"/v1/completions"})
    assert (reading.at_s, reading.cpu_s, reading.ended) == (5.0, 4.0, {"ok": 3.0})


def test_numbers_are_short_and_never_a_zero_for_something() -> None:
    assert [span(s) for s in (None, 0.0, 0.0042, 0.12, 1.23, 42.4, 185, 7800, 273600)] == [
        *("-", "0 ms", "4.2 ms", "120 ms", "1.2 s", "42 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"),
    ]
    assert [rate(n) for n in (0, 0.01, 0.4, 12.34, 1234)] == ["0", "<0.1", "0.4", "12.3", "1,234"]
    assert [bar(s, 4, ascii_only=True) for s in (0, 0.01, 0.5, 1, 3)] == ["....", "#...", "##..", "####", "####"]
