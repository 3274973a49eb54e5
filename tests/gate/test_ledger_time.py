"""The ledger's promises about time: how long a wait may be, on which clock, and how a drain ends it."""

from __future__ import annotations

from typing import Literal

import pytest

from headgate.errors import Reason
from headgate.gate import Claim, Ledger
from headgate.gate.orders import make_order
from headgate.gate.outcomes import Granted, Refused
from tests.gate.says import a_ledger, granted, reason, served, waiting


def test_nobody_waits_longer_than_the_queue_timeout() -> None:
    ledger = a_ledger(queue_timeout_s=3.0)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(1.0))
    assert ledger.next_deadline(2.0) == 4.0
    assert ledger.tick(3.9) == []
    assert [reason(verdict) for verdict in ledger.tick(4.0)] == [Reason.QUEUE_TIMEOUT]
    assert ledger.next_deadline(4.0) is None


def test_a_request_timeout_that_ends_first_is_the_reason() -> None:
    ledger = a_ledger(queue_timeout_s=30.0)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, request_timeout_s=2.0))
    assert [reason(verdict) for verdict in ledger.tick(2.0)] == [Reason.REQUEST_TIMEOUT]


def test_a_refused_heavy_head_frees_the_way_in_the_same_tick() -> None:
    ledger = a_ledger(slots=2, queue_timeout_s=3.0)
    granted(ledger.offer(0.0))
    heavy, light = waiting(ledger.offer(0.0, weight=2)), waiting(ledger.offer(1.0))
    verdicts = ledger.tick(3.0)
    assert [verdict.ticket for verdict in verdicts] == [heavy, light]
    assert [type(verdict) for verdict in verdicts] == [Refused, Granted]


def test_a_slot_is_never_given_to_one_whose_time_is_over() -> None:
    ledger = a_ledger(queue_timeout_s=3.0)
    running = granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0))
    assert [reason(verdict) for verdict in ledger.leave(3.5, running)] == [Reason.QUEUE_TIMEOUT]
    granted(ledger.offer(3.5))


def test_the_queue_timeout_stands_still_while_no_engine_is_ready() -> None:
    ledger = a_ledger(queue_timeout_s=3.0, wake_timeout_s=100.0)
    running = granted(ledger.offer(0.0))
    waiter = waiting(ledger.offer(0.0))
    ledger.resize(2.0, "e0", 0)
    assert ledger.tick(50.0) == []
    assert ledger.next_deadline(50.0) == 102.0
    ledger.resize(52.0, "e0", 1)
    assert ledger.next_deadline(52.0) == 53.0
    verdict = ledger.leave(52.5, running)[0]
    assert verdict == Granted(waiter, "e0", 2.5, 50.0)


def test_the_request_timeout_stands_still_while_no_engine_is_ready() -> None:
    ledger = Ledger(wake_timeout_s=100.0)
    waiter = waiting(ledger.offer(0.0, request_timeout_s=1.0))
    assert ledger.tick(50.0) == []
    assert served(ledger.resize(50.0, "e0", 1)) == [waiter]


def test_the_wake_timeout_ends_in_engine_unavailable() -> None:
    ledger = Ledger(queue_timeout_s=1.0, wake_timeout_s=5.0)
    waiting(ledger.offer(0.0))
    assert [reason(verdict) for verdict in ledger.tick(5.0)] == [Reason.ENGINE_UNAVAILABLE]


@pytest.mark.parametrize("mode", ["queue", "reject"])
def test_while_no_engine_is_ready_both_modes_keep_a_line(mode: Literal["queue", "reject"]) -> None:
    ledger = Ledger(queue_mode=mode, queue_max=2)
    first, second = waiting(ledger.offer(0.0)), waiting(ledger.offer(0.0))
    assert reason(ledger.offer(0.0)) is Reason.QUEUE_FULL
    assert served(ledger.resize(1.0, "e0", 1)) == [first]
    assert served(ledger.leave(2.0, first)) == [second]


def test_a_callers_own_deadline_runs_whether_an_engine_is_ready_or_not() -> None:
    ledger = a_ledger(queue_timeout_s=5.0)
    granted(ledger.offer(0.0))
    ticket = waiting(ledger.offer(0.0, claim=Claim(deadline_s=3.0)))
    ledger.resize(1.0, "e0", 0)
    assert ledger.next_deadline(1.0) == 3.0
    assert not ledger.tick(2.9)
    (refused,) = ledger.tick(3.0)
    assert isinstance(refused, Refused)
    assert (refused.ticket, refused.reason) == (ticket, Reason.WAIT_TOO_LONG)


def test_in_reject_mode_newcomers_are_refused_while_those_who_waited_for_waking_stand_in_line() -> None:
    ledger = Ledger(queue_mode="reject")
    held = [waiting(ledger.offer(0.0)) for _ in range(2)]
    ledger.resize(1.0, "e0", 1)
    assert reason(ledger.offer(1.0)) is Reason.SLOTS_BUSY
    assert held[1].waiting


@pytest.mark.parametrize(("batch", "weight", "batch_s", "chats"), [(15, 1, 30.0, 45), (6, 8, 3.0, 80)])
def test_nobody_is_refused_for_those_who_wait_behind_it(batch: int, weight: int, batch_s: float, chats: int) -> None:
    """They were counted as heavy and long as the line is in the mean: beside a batch a wait of 17 s was one of 50."""
    ledger = a_ledger(8, queue_max=200, order=make_order("priority"))
    now = 0.0
    for number in range(320):
        held_s, answer = (batch_s, 400.0) if number % 16 == 0 else (3.0, 20.0)
        ticket = granted(ledger.offer(now, claim=Claim(answer=answer)))
        now += held_s
        ledger.leave(now, ticket)
    for _ in range(8):
        granted(ledger.offer(now, claim=Claim(answer=20.0)))
    for _ in range(batch):
        waiting(ledger.offer(now, weight, claim=Claim(rank=10, answer=400.0)))
    for _ in range(chats):
        waiting(ledger.offer(now, claim=Claim(answer=20.0)))


# Draining


def test_a_drain_refuses_newcomers_and_serves_the_line() -> None:
    ledger = a_ledger()
    running = granted(ledger.offer(0.0))
    waiter = waiting(ledger.offer(0.0))
    assert ledger.close(1.0, 30.0) == []
    refused = ledger.offer(11.0)
    assert refused == Refused(refused.ticket, Reason.DRAINING, 20.0)
    assert served(ledger.leave(12.0, running)) == [waiter]
    ledger.leave(13.0, waiter)
    assert ledger.idle


def test_a_drain_with_no_engine_refuses_the_line_at_once() -> None:
    ledger = Ledger()
    waiting(ledger.offer(0.0))
    assert [reason(verdict) for verdict in ledger.close(1.0, 30.0)] == [Reason.DRAINING]


def test_an_engine_that_dies_during_a_drain_ends_the_line() -> None:
    ledger = a_ledger()
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0))
    ledger.close(1.0, 30.0)
    assert [reason(verdict) for verdict in ledger.resize(2.0, "e0", 0)] == [Reason.DRAINING]


def test_a_drain_lets_one_whose_engine_died_finish_on_another() -> None:
    ledger = a_ledger()
    ledger.close(0.0, 30.0)
    granted(ledger.offer(1.0, front=True))


def test_a_drain_lets_one_whose_slot_was_taken_have_its_place_in_the_line() -> None:
    ledger = a_ledger()
    granted(ledger.offer(0.0))
    ledger.close(0.0, 30.0)
    waiting(ledger.offer(1.0, kept=True))


def test_the_drain_limit_refuses_all_who_wait_but_not_what_runs() -> None:
    ledger = a_ledger()
    running = granted(ledger.offer(0.0))
    for _ in range(2):
        waiting(ledger.offer(0.0))
    ledger.close(1.0, 30.0)
    assert [reason(verdict) for verdict in ledger.evict(31.0)] == [Reason.DRAINING] * 2
    assert reason(ledger.offer(31.0, front=True)) is Reason.DRAINING
    assert not ledger.idle
    ledger.leave(32.0, running)
    assert ledger.idle
