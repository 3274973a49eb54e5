"""Who has heard nothing for long is sent a head and a comment, at its own times, on one timer for all."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.relay.holds import Holds


class Loop:
    """Keeps the timers, which ring when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, in_s: float, ring: Any) -> object:
        self.timers.append((self.now + in_s, ring))
        return ring

    def run_until(self, at: float) -> None:
        while self.timers and self.timers[0][0] <= at:
            assert len(self.timers) == 1
            self.now, ring = self.timers.pop()
            ring()
        self.now = at


class Held:
    """Stands for a reply."""

    def __init__(self, loop: Loop) -> None:
        self.committed = False
        self.at: list[float] = []
        self._loop = loop

    def hold(self) -> None:
        self.at.append(round(self._loop.now, 1))


class Gone(Held):
    """One whose client has just gone."""

    def hold(self) -> None:
        raise RuntimeError


@pytest.mark.interpreted
def test_each_is_held_at_its_own_times_until_it_has_begun_or_ended() -> None:
    loop = Loop()
    holds = Holds(loop, loop.time, 15.0)  # type: ignore[arg-type]
    first, begins, ends, late = (Held(loop) for _ in range(4))
    for at, held in ((0.0, first), (1.0, begins), (2.0, ends), (14.0, late)):
        loop.run_until(at)
        holds.watch(held)  # type: ignore[arg-type]
    loop.run_until(20.0)
    begins.committed = True
    holds.forget(ends)  # type: ignore[arg-type]
    loop.run_until(50.0)
    assert (first.at, begins.at, ends.at, late.at) == ([15.0, 30.0, 45.0], [16.0], [17.0], [29.0, 44.0])
    for held in (first, begins, late):
        holds.forget(held)  # type: ignore[arg-type]
    loop.run_until(1000.0)
    assert not loop.timers, "an idle gateway has nothing to look at"
    holds.watch(ends)  # type: ignore[arg-type]
    loop.run_until(1016.0)
    assert ends.at == [17.0, 1015.0]


@pytest.mark.interpreted
def test_one_that_can_not_be_told_keeps_nobody_else_from_it() -> None:
    loop = Loop()
    holds = Holds(loop, loop.time, 15.0)  # type: ignore[arg-type]
    gone, other = Gone(loop), Held(loop)
    for held in (gone, other):
        holds.watch(held)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        loop.run_until(20.0)
    loop.run_until(40.0)
    assert other.at == [15.0, 30.0]
