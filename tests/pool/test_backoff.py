"""Delays between starts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.pool.backoff import Backoff

CHANCE = st.floats(min_value=0, max_value=1, exclude_max=True)


@settings(deadline=None)
@given(CHANCE)
def test_the_first_restart_is_prompt(chance: float) -> None:
    assert 0.5 <= Backoff().delay_s(1, chance) <= 1.0


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=100_000), CHANCE, CHANCE)
def test_delays_do_not_shrink_with_failures_and_never_pass_the_cap(failures: int, chance: float, other: float) -> None:
    backoff = Backoff()
    sooner, later = backoff.delay_s(failures, chance), backoff.delay_s(failures + 1, other)
    assert sooner <= backoff.cap_s
    assert later <= backoff.cap_s
    assert later >= sooner


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(min_value=0, max_value=59.9), min_size=1, max_size=10))
def test_starts_that_did_not_last_are_waited_for_ever_longer(lives_s: list[float | None]) -> None:
    backoff, failures = Backoff(), 0
    for ready_for_s in lives_s:
        failures = backoff.failures_after(failures, ready_for_s)
    assert failures == len(lives_s)


def test_five_starts_that_failed_are_enough() -> None:
    assert [Backoff().give_up(failed) for failed in range(7)] == [False] * 5 + [True] * 2


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=50))
def test_an_engine_that_was_ready_for_a_while_begins_the_count_anew(failures: int) -> None:
    assert Backoff().failures_after(failures, 60.0) == 1
