"""Slots that come free in bunches are given out one after another; no bunch is made of the next turn."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headgate.gate import Gate, Ledger
from headgate.gate.entries import Ticket
from headgate.gate.limits import PACE, Limit, Reading
from headgate.gate.slots import HELD_BACK_MOST, Bin
from tests.gate.clock import run
from tests.gate.says import a_ledger, granted, served, waiting
from tests.gate.waiters import in_line

SLOTS = 16
HELD_BACK = int(HELD_BACK_MOST * SLOTS)


def a_wave(pace_s: float = 1.0) -> tuple[Ledger, list[Ticket], list[Ticket]]:
    """All slots end in one moment, and as many wait."""
    ledger = a_ledger(slots=SLOTS)
    ledger.pace(0.0, "e0", pace_s)
    held = [granted(ledger.offer(0.0)) for _ in range(SLOTS)]
    line = [waiting(ledger.offer(1.0)) for _ in range(SLOTS)]
    got = [ticket for ticket in held for ticket in served(ledger.leave(10.0, ticket))]
    return ledger, line, got


def test_of_a_wave_an_eighth_comes_later_one_by_one() -> None:
    ledger, line, got = a_wave()
    assert got == line[: SLOTS - HELD_BACK]
    assert ledger.statistics(10.0).held_back == HELD_BACK
    assert not ledger.fits(1)
    for nth in range(HELD_BACK):
        due = ledger.next_deadline(10.0 + nth)
        assert due == 11.0 + nth
        assert not ledger.tick(due - 0.01)
        assert served(ledger.tick(due)) == [line[SLOTS - HELD_BACK + nth]]
    assert ledger.active == SLOTS


def test_without_a_pace_they_come_as_they_are_free() -> None:
    ledger, line, got = a_wave(pace_s=0.0)
    assert got == line
    assert ledger.statistics(10.0).held_back == 0


def test_what_was_held_back_is_given_out_when_the_pace_ends() -> None:
    ledger, line, _ = a_wave()
    assert served(ledger.pace(10.5, "e0", 0.0)) == line[-HELD_BACK:]


def test_an_engine_that_comes_back_has_no_pace_and_nothing_held_back() -> None:
    ledger, line, _ = a_wave()
    ledger.resize(10.1, "e0", 0)
    assert served(ledger.resize(10.2, "e0", SLOTS)) == line[-HELD_BACK:]


def test_few_slots_are_never_held_back() -> None:
    ledger = a_ledger(slots=7)
    ledger.pace(0.0, "e0", 5.0)
    held = [granted(ledger.offer(0.0)) for _ in range(7)]
    line = [waiting(ledger.offer(0.0)) for _ in range(7)]
    assert [ticket for each in held for ticket in served(ledger.leave(1.0, each))] == line


def test_one_that_needs_all_slots_gets_them_though_some_were_held_back() -> None:
    ledger = a_ledger(slots=SLOTS)
    ledger.pace(0.0, "e0", 1.0)
    held = [granted(ledger.offer(0.0)) for _ in range(SLOTS)]
    heavy = waiting(ledger.offer(0.0, SLOTS))
    for each in held:
        assert not ledger.leave(1.0, each)
    assert served(ledger.tick(1.0 + HELD_BACK)) == [heavy]


@given(
    slots=st.integers(1, 64),
    pace_s=st.floats(0.01, 2.0),
    ends_s=st.lists(st.floats(0.0, 30.0), max_size=100),
)
def test_no_more_than_an_eighth_is_held_back_and_each_for_its_turn(
    slots: int, pace_s: float, ends_s: list[float]
) -> None:
    a_bin = Bin("e0", slots, active=slots, pace_s=pace_s)
    for now in sorted(ends_s):
        a_bin.let_go(now)
        if not a_bin.active:
            a_bin.active = a_bin.free  # all that can be granted is
        a_bin.active -= a_bin.active > 0
        a_bin.hold_back(now, 1)
        assert len(a_bin.held_back) <= slots / 8
        assert a_bin.free >= 0
        assert all(at > now for at in a_bin.held_back)
        assert all(later - sooner >= 0.999 * pace_s for sooner, later in pairwise(a_bin.held_back))
        assert not a_bin.held_back or a_bin.held_back[-1] <= now + pace_s * (slots / 8 + 1)


def test_the_gate_rings_when_a_slot_that_was_held_back_may_be_granted() -> None:
    """Its timer stands at the waiter's own deadline, half a minute away, when the slot comes free."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(Ledger(), clock=loop.time)
        gate.resize("e0", SLOTS)
        gate.pace("e0", 1.0)
        held = [await gate.acquire() for _ in range(SLOTS)]
        waiters = [await in_line(gate.acquire()) for _ in range(SLOTS)]
        began = loop.time()
        for lease in held:
            lease.release()
        leases = await asyncio.gather(*waiters)
        assert leases[-1].waited_s > 0
        assert HELD_BACK <= loop.time() - began < HELD_BACK + 0.1

    run(main())


def test_the_pace_is_that_of_the_ends_and_only_where_somebody_waits() -> None:
    limit = Limit(100, itl_s=0.1, ttft_s=1.0)
    busy = Reading(1.0, active=100, wanted=True, gaps_s=5.0, gaps=100, holds_s=100.0, holds_s2=250.0, holds=50)
    limit.read(busy)
    assert limit.pace_s == 2.0 / limit.slots / PACE, "2 s each, so many at once, a quarter sooner"
    limit.read(busy._replace(wanted=False))
    assert limit.pace_s == 0.0


def test_slots_held_back_count_as_taken_when_more_are_asked_for() -> None:
    limit = Limit(100, itl_s=0.1, ttft_s=1.0)
    limit.read(Reading(1.0, active=100, wanted=True, gaps_s=20.0, gaps=100))
    fewer = limit.slots
    assert fewer < 100
    calm = Reading(10.0, active=fewer - 8, held_back=8, wanted=True, gaps_s=5.0, gaps=100)
    assert limit.read(calm) > fewer
    assert limit.read(calm._replace(active=limit.slots - 20)) == limit.slots
