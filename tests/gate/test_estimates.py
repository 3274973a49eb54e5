"""What those who wait are told: how long still."""

from __future__ import annotations

import pytest

from headgate.gate import Ledger
from tests.gate.says import a_ledger, granted, waiting


def a_busy_ledger(slots: int, hold_s: float) -> tuple[Ledger, float]:
    """One whose slots are all held, after many were held for ``hold_s``; and the time."""
    ledger = a_ledger(slots=slots)
    now = 0.0
    for _ in range(20):
        held = [granted(ledger.offer(now)) for _ in range(slots)]
        now += hold_s
        for ticket in held:
            ledger.leave(now, ticket)
    for _ in range(slots):
        granted(ledger.offer(now))
    return ledger, now


def etas(ledger: Ledger, now: float) -> list[float | None]:
    return [each.eta_s for each in ledger.line(now, 1000)]


def test_each_in_the_line_waits_for_one_slot_more_than_the_one_before() -> None:
    ledger, now = a_busy_ledger(slots=4, hold_s=2.0)
    for _ in range(3):
        waiting(ledger.offer(now))
    assert etas(ledger, now) == pytest.approx([0.5, 1.0, 1.5])
    assert ledger.eta_s(now) == pytest.approx(2.0), "a newcomer comes after them"


def test_a_heavy_one_in_front_is_waited_for_by_its_weight() -> None:
    ledger, now = a_busy_ledger(slots=4, hold_s=2.0)
    waiting(ledger.offer(now, 3))
    waiting(ledger.offer(now))
    assert etas(ledger, now) == pytest.approx([1.5, 2.0])


def test_newcomer_waits_for_nothing_while_a_slot_is_free() -> None:
    ledger = a_ledger(slots=2)
    granted(ledger.offer(0.0))
    assert ledger.eta_s(0.0) == 0.0
    assert ledger.line(0.0, 10) == []


def test_an_engine_that_loads_is_waited_for_if_anybody_knows_how_long() -> None:
    ledger = a_ledger(slots=2)
    ledger.resize(0.0, "e0", 0)
    for _ in range(3):
        waiting(ledger.offer(0.0))
    assert etas(ledger, 0.0) == [None, None, None]
    assert ledger.eta_s(0.0) is None
    ledger.expect(0.0, 20.0)
    first, second, third = etas(ledger, 5.0)
    assert first == second == 15.0, "both slots are free when it is there"
    assert third is not None
    assert third > 15.0


def test_nobody_is_told_a_time_in_a_drain_that_refuses_newcomers() -> None:
    ledger = a_ledger(slots=2)
    ledger.close(0.0, 30.0)
    assert ledger.eta_s(0.0) is None
