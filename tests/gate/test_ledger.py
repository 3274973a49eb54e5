"""The ledger's promises about slots, the line, weights and engines, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headgate.errors import Reason
from headgate.gate import Bin, LedgerError, emptiest
from headgate.gate.outcomes import Granted, Waiting
from tests.gate.says import a_ledger, granted, reason, served, waiting

if TYPE_CHECKING:
    from collections.abc import Sequence


# Slots and line


def test_a_free_slot_is_granted_at_once() -> None:
    decision = a_ledger().offer(1.0)
    assert isinstance(decision, Granted)
    assert (decision.engine, decision.waited_s, decision.waking_s) == ("e0", 0.0, 0.0)


def test_a_slot_given_back_goes_to_who_came_first() -> None:
    ledger = a_ledger()
    running = granted(ledger.offer(0.0))
    first = waiting(ledger.offer(1.0))
    waiting(ledger.offer(2.0))
    verdict = ledger.leave(5.0, running)[0]
    assert isinstance(verdict, Granted)
    assert (verdict.ticket, verdict.waited_s) == (first, 4.0)


def test_who_leaves_the_line_lets_the_next_move_up() -> None:
    ledger = a_ledger()
    running = granted(ledger.offer(0.0))
    leaver, stayer = waiting(ledger.offer(0.0)), waiting(ledger.offer(0.0))
    assert ledger.leave(1.0, leaver) == []
    assert served(ledger.leave(1.0, running)) == [stayer]


def test_a_ticket_that_has_ended_cannot_leave() -> None:
    ledger = a_ledger()
    ticket = granted(ledger.offer(0.0))
    ledger.leave(1.0, ticket)
    with pytest.raises(LedgerError):
        ledger.leave(1.0, ticket)


def test_queue_max_bounds_the_line() -> None:
    ledger = a_ledger(queue_max=2)
    decisions = [ledger.offer(0.0) for _ in range(4)]
    assert reason(decisions[3]) is Reason.QUEUE_FULL


def test_queue_max_bytes_bounds_what_the_line_keeps_in_memory() -> None:
    ledger = a_ledger(queue_max_bytes=100)
    granted(ledger.offer(0.0, size_bytes=1000))
    waiting(ledger.offer(0.0, size_bytes=60))
    assert reason(ledger.offer(0.0, size_bytes=60)) is Reason.QUEUE_FULL
    waiting(ledger.offer(0.0, size_bytes=40))


def test_reject_mode_refuses_when_no_slot_is_free() -> None:
    ledger = a_ledger(mode="reject")
    running = granted(ledger.offer(0.0))
    assert reason(ledger.offer(0.0)) is Reason.SLOTS_BUSY
    ledger.leave(1.0, running)
    granted(ledger.offer(1.0))


# Weights


def test_a_heavy_head_reserves_and_no_light_one_overtakes_it() -> None:
    ledger = a_ledger(slots=2)
    one, two = granted(ledger.offer(0.0)), granted(ledger.offer(0.0))
    heavy, light = waiting(ledger.offer(0.0, weight=2)), waiting(ledger.offer(0.0))
    assert ledger.leave(1.0, one) == []
    assert isinstance(ledger.offer(1.0), Waiting)
    assert served(ledger.leave(2.0, two)) == [heavy]
    assert light.waiting


def test_a_weight_over_the_largest_engine_takes_the_whole_engine() -> None:
    ledger = a_ledger(slots=4)
    assert granted(ledger.offer(0.0, weight=100)).weight == 4
    waiting(ledger.offer(0.0))


def test_a_weight_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 slot at least"):
        a_ledger().offer(0.0, weight=0)


def test_a_weight_is_not_spread_over_engines() -> None:
    ledger = a_ledger(slots=2)
    ledger.resize(0.0, "e1", 2)
    granted(ledger.offer(0.0))
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, weight=2))


def test_the_head_shrinks_with_the_largest_engine() -> None:
    ledger = a_ledger(slots=4)
    granted(ledger.offer(0.0))
    heavy = waiting(ledger.offer(0.0, weight=4))
    ledger.resize(1.0, "e1", 2)
    assert served(ledger.resize(2.0, "e0", 1)) == [heavy]
    assert heavy.weight == 2


# Engines


def test_the_emptiest_engine_is_chosen_relative_to_its_slots() -> None:
    assert emptiest([Bin("big", 10, 6), Bin("small", 2, 1)], 1).engine == "small"
    assert emptiest([Bin("first", 2), Bin("second", 4)], 1).engine == "first"


def test_the_choice_is_asked_only_about_engines_with_room() -> None:
    asked: list[list[str]] = []

    def last(bins: Sequence[Bin], weight: int) -> Bin:
        asked.append([each.engine for each in bins])
        return bins[-1]

    ledger = a_ledger(choose=last)
    granted(ledger.offer(0.0))
    ledger.resize(0.0, "e1", 2)
    ledger.resize(0.0, "e2", 2)
    decision = ledger.offer(0.0)
    assert isinstance(decision, Granted)
    assert decision.engine == "e2"
    assert asked == [["e1", "e2"]]


def test_a_smaller_engine_gets_nothing_new_until_what_runs_fits() -> None:
    ledger = a_ledger(slots=3)
    running = [granted(ledger.offer(0.0)) for _ in range(3)]
    waiter = waiting(ledger.offer(0.0))
    assert ledger.resize(1.0, "e0", 1) == []
    assert ledger.leave(1.0, running[0]) == []
    assert ledger.leave(1.0, running[1]) == []
    assert served(ledger.leave(1.0, running[2])) == [waiter]


def test_a_larger_engine_serves_hundreds_at_once() -> None:
    ledger = a_ledger(queue_max=500)
    granted(ledger.offer(0.0))
    line = [waiting(ledger.offer(0.0)) for _ in range(500)]
    assert served(ledger.resize(1.0, "e0", 400)) == line[:399]


def test_an_engine_that_went_away_is_forgotten_when_its_last_one_ends() -> None:
    ledger = a_ledger()
    running = granted(ledger.offer(0.0))
    ledger.resize(1.0, "e0", 0)
    assert ledger.statistics(1.0).active_by_engine == {"e0": 1}
    ledger.leave(2.0, running)
    assert ledger.statistics(2.0).active_by_engine == {}


def test_who_comes_back_from_a_dead_engine_goes_first_with_its_time_spent() -> None:
    ledger = a_ledger(queue_max=1, queue_timeout_s=10.0)
    running = granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0))
    back = ledger.offer(1.0, front=True, waited_s=6.0, waking_s=2.0)
    assert back == Waiting(back.ticket)
    verdict = ledger.leave(4.0, running)[0]
    assert verdict == Granted(back.ticket, "e0", 9.0, 2.0)


def test_who_came_back_is_refused_when_its_whole_wait_is_over() -> None:
    ledger = a_ledger(queue_timeout_s=10.0)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, front=True, waited_s=6.0))
    assert ledger.next_deadline(0.0) == 4.0
    assert [reason(verdict) for verdict in ledger.tick(4.0)] == [Reason.QUEUE_TIMEOUT]


# What is shown


def test_statistics_are_a_picture_that_does_not_change() -> None:
    ledger = a_ledger(slots=2)
    granted(ledger.offer(0.0, weight=2))
    waiting(ledger.offer(3.0, size_bytes=10))
    before = ledger.statistics(5.0)
    ledger.resize(6.0, "e0", 4)
    assert (before.slots, before.active, before.waiting, before.waiting_bytes) == (2, 2, 1, 10)
    assert (before.oldest_wait_s, before.granted_total, before.refused_total) == (2.0, 1, 0)
    assert ledger.statistics(6.0).active == 3


def test_the_repr_fits_a_log_line() -> None:
    ledger = a_ledger(queue_max=8)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, size_bytes=10))
    assert repr(ledger) == "<Ledger ready: 1/1 slots held, 1/8 waiting (10 bytes)>"
