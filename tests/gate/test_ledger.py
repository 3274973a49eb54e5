"""The ledger's promises, one by one."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Literal

import pytest

from headgate.errors import Reason
from headgate.gate import Bin, Fifo, Ledger, LedgerError, emptiest
from headgate.gate.outcomes import Granted, Refused, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headgate.gate.entries import Ticket
    from headgate.gate.outcomes import Decision, Verdict


def a_ledger(slots: int = 1, mode: Literal["queue", "reject"] = "queue", **settings: Any) -> Ledger:
    ledger = Ledger(queue_mode=mode, **settings)
    ledger.resize(0.0, "e0", slots)
    return ledger


def granted(decision: Decision) -> Ticket:
    assert isinstance(decision, Granted), decision
    return decision.ticket


def waiting(decision: Decision) -> Ticket:
    assert isinstance(decision, Waiting), decision
    return decision.ticket


def reason(decision: Decision) -> Reason:
    assert isinstance(decision, Refused), decision
    return decision.reason


def served(verdicts: Sequence[Verdict]) -> list[Ticket]:
    return [granted(verdict) for verdict in verdicts]


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


def test_the_place_in_the_line_is_told() -> None:
    ledger = a_ledger()
    granted(ledger.offer(0.0))
    places = [ledger.offer(0.0) for _ in range(3)]
    assert [place.position for place in places if isinstance(place, Waiting)] == [1, 2, 3]


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
    assert back == Waiting(back.ticket, 1)
    verdict = ledger.leave(4.0, running)[0]
    assert verdict == Granted(back.ticket, "e0", 9.0, 2.0)


def test_who_came_back_is_refused_when_its_whole_wait_is_over() -> None:
    ledger = a_ledger(queue_timeout_s=10.0)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, front=True, waited_s=6.0))
    assert ledger.next_deadline(0.0) == 4.0
    assert [reason(verdict) for verdict in ledger.tick(4.0)] == [Reason.QUEUE_TIMEOUT]


# Time


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


def test_in_reject_mode_newcomers_are_refused_while_those_who_waited_for_waking_stand_in_line() -> None:
    ledger = Ledger(queue_mode="reject")
    held = [waiting(ledger.offer(0.0)) for _ in range(2)]
    ledger.resize(1.0, "e0", 1)
    assert reason(ledger.offer(1.0)) is Reason.SLOTS_BUSY
    assert held[1].waiting


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


# Work


class Counted(float):
    """A time that counts how often it is compared: time is an argument, so a test may bring its own."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) < float(other)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return isinstance(other, float | int) and float(self) == float(other)

    __hash__ = float.__hash__

    def __add__(self, other: float) -> Counted:
        return Counted(float(self) + float(other))

    def __sub__(self, other: float) -> Counted:
        return Counted(float(self) - float(other))


class Unwalked(Fifo):
    """A line that nobody may walk along."""

    def __iter__(self) -> Iterator[Ticket]:
        raise AssertionError("walked along the whole line")


def comparisons_in_a_line_of(length: int) -> int:
    """How often times are compared by 100 each of: offer, leave from the middle, slot given back, timeout."""
    ledger = Ledger(queue_max=10**9, queue_max_bytes=10**12, queue_timeout_s=1e6, order=Unwalked())
    ledger.resize(Counted(0.0), "e0", 1)
    running = granted(ledger.offer(Counted(0.0)))
    line = [waiting(ledger.offer(Counted(at), request_timeout_s=inf)) for at in range(length)]
    Counted.compared = 0
    for step in range(100):
        now = Counted(length + step)
        (running,) = served(ledger.leave(now, running))
        ledger.leave(now, line[length // 2 + step // 4 if step % 4 == 0 else -1 - step])
        waiting(ledger.offer(now, request_timeout_s=1e5))
        waiting(ledger.offer(now, request_timeout_s=0.0))
        assert len(ledger.tick(now)) == 1
        ledger.next_deadline(now)
    return Counted.compared


def test_work_grows_with_the_logarithm_of_the_line() -> None:
    short, long = comparisons_in_a_line_of(1_000), comparisons_in_a_line_of(100_000)
    assert 100 < short
    assert long < 3 * short
