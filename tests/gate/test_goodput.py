"""With nothing tuned by hand the gate keeps the engine's peak at every load. Played in virtual time: the same each run.

The bars are those of the design: 98 % of what the engine does by itself at and below its peak, 95 % of the peak when
two and four times as much is offered.
"""

from __future__ import annotations

from functools import cache

import pytest

from headgate.workbench.rehearsal import Objective
from loadtest.overload import rehearsed
from loadtest.overload.rehearsed import run

peak = cache(rehearsed.peak)

CASES = [
    ("200 in, 200 out", "fast, small KV cache", 90.0),
    ("200 in, 200 out", "slow", 150.0),
    ("1500 in, 64 out", "fast", 90.0),
    ("20 in, 40 out", "slow", 150.0),
    ("mixed", "fast, small KV cache", 70.0),
]
"""Work, engine, seconds of virtual time. What comes in the first 40 % isn't looked at: the slots are being found."""


@pytest.mark.parametrize(("work", "engine", "seconds"), CASES)
def test_the_peak_is_kept_at_every_load(work: str, engine: str, seconds: float) -> None:
    warm_s = 0.4 * seconds
    best, at = peak(work, engine, seconds=seconds / 3)
    for load in (0.5, 0.9):
        alone = run(work, engine, at * load, gate=None, seconds=seconds, warm_s=warm_s, seed=2)
        gated = run(work, engine, at * load, gate="fair", seconds=seconds, warm_s=warm_s, seed=2)
        assert gated.good >= 0.98 * alone.good, f"at {load:g} times the peak's load"
    for load in (2, 4):
        gated = run(work, engine, at * load, gate="fair", seconds=seconds, warm_s=warm_s, seed=2)
        assert gated.good >= 0.95 * best, f"at {load:g} times the peak's load"


@pytest.mark.parametrize("load", [2, 4])
def test_who_is_served_under_overload_hardly_waits(load: float) -> None:
    """Oldest first, all of the objective but the engine's own part of it is spent in the line: 0.9 of 1 s."""
    gated = run("20 in, 40 out", "slow", 21.6 * load, gate="fair", seconds=120.0, warm_s=60.0, seed=2)
    assert gated.ttft_p50_s < 0.3


def test_a_line_that_is_first_come_first_served_does_not_keep_it() -> None:
    """What the default order is for: the plain one, with a good number of slots, serves nearly everybody too late."""
    best, at = peak("200 in, 200 out", "slow")
    plain = run("200 in, 200 out", "slow", 2 * at, gate="fifo", slots=80, seconds=150.0, warm_s=60.0, seed=2)
    assert plain.good < 0.5 * best


def test_slots_found_while_running_are_as_good_as_the_best_number() -> None:
    for work, engine in (("200 in, 200 out", "slow"), ("20 in, 40 out", "slow")):
        _, at = peak(work, engine)
        fixed = [
            run(work, engine, 2 * at, gate="fair", slots=slots, seconds=150.0, warm_s=60.0, seed=2).good
            for slots in (32, 64, 80, 96, 128)
        ]
        found = run(work, engine, 2 * at, gate="fair", seconds=150.0, warm_s=60.0, seed=2)
        assert found.good >= 0.95 * max(fixed)


def test_an_objective_for_the_whole_answer_is_kept_too() -> None:
    """Tokens may be 100 ms apart, but an answer of 40 must be there after 3 s: what the line and the tokens leave."""
    whole = Objective(ttft_s=1.0, itl_s=0.1, latency_s=3.0)
    best, at = peak("20 in, 40 out", "slow", objective=whole)
    for load in (2, 4):
        gated = run(
            "20 in, 40 out", "slow", at * load, gate="fair", seconds=120.0, warm_s=60.0, seed=2, objective=whole
        )
        assert gated.good >= 0.95 * best, f"at {load:g} times the peak's load"
