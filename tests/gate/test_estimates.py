"""What those who wait are told: how long still."""

from __future__ import annotations

import itertools
import random

import pytest

from headgate.gate import Ledger
from loadtest.overload import waits
from tests.gate.says import a_ledger, granted, served, waiting


def taught(ledger: Ledger, slots: int, holds_s: list[float]) -> float:
    """Let slots be held for so long, one after the other on each; all are free again at the time returned."""
    now = 0.0
    for at in range(0, len(holds_s), slots):
        held = sorted((hold_s, granted(ledger.offer(now)).number) for hold_s in holds_s[at : at + slots])
        tickets = {each.number: each for each in ledger._slots.holders}
        for hold_s, number in held:
            ledger.leave(now + hold_s, tickets[number])
        now += held[-1][0]
    return now


def a_busy_ledger(slots: int, holds_s: list[float]) -> tuple[Ledger, float]:
    """One whose slots were all taken just now, after it saw slots held for so long."""
    ledger = a_ledger(slots=slots)
    now = taught(ledger, slots, holds_s)
    for _ in range(slots):
        granted(ledger.offer(now))
    return ledger, now


def etas(ledger: Ledger, now: float) -> list[float | None]:
    line, newcomer_s = ledger.outlook(now, 1000)
    return [*(each.eta_s for each in line), newcomer_s]


EQUAL = [2.0] * 2000
DICE = random.Random(1)
ANY_TIME = [DICE.expovariate(0.5) for _ in range(2000)]


def test_those_of_a_burst_of_equals_come_free_together() -> None:
    ledger, now = a_busy_ledger(4, EQUAL)
    for _ in range(5):
        waiting(ledger.offer(now))
    assert etas(ledger, now + 0.5) == pytest.approx([1.5] * 4 + [3.5] * 2, rel=0.05)


def test_one_slot_that_is_held_for_a_known_time_comes_free_after_the_rest_of_it() -> None:
    ledger, now = a_busy_ledger(1, EQUAL)
    for _ in range(2):
        waiting(ledger.offer(now))
    assert etas(ledger, now + 0.5) == pytest.approx([1.5, 3.5, 5.5], rel=0.05)
    assert etas(ledger, now + 3.0) == pytest.approx([2.0, 4.0, 6.0], rel=0.05), "it hangs, for who knows how long"


def test_where_an_end_may_come_at_any_time_each_waits_for_one_slot_more() -> None:
    ledger, now = a_busy_ledger(4, ANY_TIME)
    for _ in range(5):
        waiting(ledger.offer(now))
    seen = etas(ledger, now)
    gaps = [later - sooner for sooner, later in itertools.pairwise(seen) if later and sooner]
    assert len(gaps) == 5
    assert gaps == pytest.approx([0.5] * 5, rel=0.5)


def test_estimates_are_right_on_the_whole() -> None:
    """Played out: what the first in the line was told, and when it was served."""
    dice = random.Random(2)
    for holds_s, within in ((EQUAL, 0.1), (ANY_TIME, 0.35)):
        told, waited = [], []
        for _ in range(300):
            ledger, now = a_busy_ledger(4, holds_s[:80])
            first = waiting(ledger.offer(now))
            told.append(ledger.outlook(now, 1)[0][0].eta_s or 0.0)
            ends = sorted(dice.choice(holds_s) for _ in range(4))
            assert served(ledger.leave(now + ends[0], next(iter(ledger._slots.holders)))) == [first]
            waited.append(ends[0])
        assert sum(told) / sum(waited) == pytest.approx(1.0, abs=within)


def test_a_heavy_one_in_front_is_waited_for_by_its_weight() -> None:
    ledger, now = a_busy_ledger(4, ANY_TIME)
    waiting(ledger.offer(now, 3))
    heavy, newcomer = etas(ledger, now)
    alone, _ = a_busy_ledger(4, ANY_TIME)[0], None
    waiting(alone.offer(now))
    (light, _) = etas(alone, now)
    assert heavy is not None
    assert light is not None
    assert newcomer is not None
    assert heavy == pytest.approx(3 * light, rel=0.3)
    assert newcomer > heavy


def test_newcomer_waits_for_nothing_while_a_slot_is_free() -> None:
    ledger = a_ledger(slots=2)
    granted(ledger.offer(0.0))
    assert ledger.outlook(0.0, 10) == ([], 0.0)


def test_one_that_holds_for_ever_does_not_promise_a_slot_at_any_moment() -> None:
    ledger, now = a_busy_ledger(1, EQUAL)
    waiting(ledger.offer(now))
    (first, _) = etas(ledger, now + 100.0)
    assert first is not None
    assert first > 2.0


def test_an_engine_that_loads_is_waited_for_if_anybody_knows_how_long() -> None:
    ledger = a_ledger(slots=2)
    ledger.resize(0.0, "e0", 0)
    for _ in range(3):
        waiting(ledger.offer(0.0))
    assert etas(ledger, 0.0) == [None] * 4
    ledger.expect(0.0, 20.0)
    first, second, third, _ = etas(ledger, 5.0)
    assert first == second == 15.0, "both slots are free when it is there"
    assert third is not None
    assert third > 15.0


def test_those_behind_the_shown_part_of_the_line_count_for_a_newcomer() -> None:
    ledger, now = a_busy_ledger(4, ANY_TIME)
    for _ in range(60):
        waiting(ledger.offer(now))
    whole, part = ledger.outlook(now, 1000)[1], ledger.outlook(now, 10)[1]
    assert whole == pytest.approx(part, rel=0.05)


def test_nobody_is_told_a_time_in_a_drain_that_refuses_newcomers() -> None:
    ledger = a_ledger(slots=2)
    ledger.close(0.0, 30.0)
    assert ledger.outlook(0.0, 10) == ([], None)


def test_many_heavy_ones_are_not_played_through() -> None:
    """Sixty that each need a thousand slots: the estimate falls back on the rate."""
    ledger, now = a_busy_ledger(1000, EQUAL)
    ledger.queue_timeout_s = 1000.0
    for _ in range(60):
        waiting(ledger.offer(now, 1000))
    assert etas(ledger, now)[-1] == pytest.approx(2.0 * 60, rel=0.1)


@pytest.mark.parametrize("work", list(waits.WORK))
@pytest.mark.parametrize("slots", [1, 8, 88])
def test_what_those_who_wait_are_told_comes_true(work: str, slots: int) -> None:
    """Right in the mean, and nearer the more is known: to the length of one answer of those that run, or a quarter."""
    forecast, shown = waits.errors(work, slots, "fifo", (1, 2, 3))
    assert forecast.wait_s > 0.3, "or it says nothing"
    for told in (forecast, shown):
        assert abs(told.bias_s) <= 0.15 * told.wait_s
        assert told.error_s <= 0.35 * told.wait_s
    if work == "all 40 tokens":
        assert shown.error_s <= 0.1 * shown.wait_s
    if "keys" in work:
        assert shown.error_s <= 0.3 * shown.wait_s, "the others' answers are long, and that is known"
