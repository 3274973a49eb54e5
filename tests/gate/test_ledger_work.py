"""The ledger's work and memory do not grow with what is not there."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from headgate.gate import Fifo, Ledger
from headgate.gate.entries import Ticket
from tests.gate.says import a_ledger, granted, served, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    """How often times are compared while 100 slots come back, 100 leave the middle, 200 come, 100 are late."""
    ledger = Ledger(queue_max=10**9, queue_max_bytes=10**12, queue_timeout_s=1e12, order=Unwalked())
    ledger.resize(Counted(0.0), "e0", 1)
    running = granted(ledger.offer(Counted(0.0)))
    line = [waiting(ledger.offer(Counted(at))) for at in range(length)]
    Counted.compared = 0
    for step in range(100):
        now = Counted(length + step)
        (running,) = served(ledger.leave(now, running))
        ledger.leave(now, line.pop(length // 2))
        waiting(ledger.offer(now, request_timeout_s=1e5))
        waiting(ledger.offer(now, request_timeout_s=0.0))
        assert len(ledger.tick(now)) == 1
        ledger.next_deadline(now)
    return Counted.compared


@pytest.mark.interpreted
def test_work_grows_with_the_logarithm_of_the_line() -> None:
    short, long = comparisons_in_a_line_of(1_000), comparisons_in_a_line_of(100_000)
    assert short > 100
    assert long < 2 * short


def test_deadlines_of_those_who_left_are_not_kept_on_the_clock_that_stands_still() -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, Ticket) for each in gc.get_objects())

    before = kept()  # by other tests
    ledger = a_ledger()
    granted(ledger.offer(0.0))
    for _ in range(10_000):
        ledger.leave(1.0, waiting(ledger.offer(1.0)))
    assert kept() - before < 1000


def test_a_deadline_is_kept_through_any_number_of_others() -> None:
    ledger = a_ledger(queue_timeout_s=30.0)
    granted(ledger.offer(0.0))
    stayer = waiting(ledger.offer(0.0))
    for _ in range(1000):
        ledger.leave(1.0, waiting(ledger.offer(1.0)))
    assert [verdict.ticket for verdict in ledger.tick(30.0)] == [stayer]
