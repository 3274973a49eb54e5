"""The figures of the overhead benchmark."""

from __future__ import annotations

import json
import subprocess
import sys

from loadtest.overhead.client import spread_ms


def test_percentiles_are_nearest_rank() -> None:
    """Of five the second was the median: ranks were rounded, and halves to even."""
    assert spread_ms([n * 10**6 for n in range(1, 6)]) == {"p50": 3.0, "p90": 5.0, "p99": 5.0, "max": 5.0}
    hundred = spread_ms([n * 10**6 for n in range(100, 0, -1)])
    assert hundred == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert spread_ms([7 * 10**6]) == {"p50": 7.0, "p90": 7.0, "p99": 7.0, "max": 7.0}
    assert spread_ms([]) is None


def test_what_a_request_takes_inside_is_measured_with_stand_ins_that_fit() -> None:
    """A stand-in that lacks something has every request fail, and a failure's time would be told."""
    run = subprocess.run(
        [sys.executable, "-m", "loadtest.overhead.inside", "--batches", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "µs per whole request" in run.stdout
    assert not run.stderr


def test_two_of_the_same_code_take_turns() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "loadtest.overhead.turns", "--turns", "2", "one=src", "other=src"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    figures = json.loads(run.stdout.splitlines()[0])
    assert figures["phase"] == "whole"
    assert all(len(of) == 2 and min(of) > 0 for of in (figures["cpu_us"]["one"], figures["cpu_us"]["other"]))
    assert "other" in run.stdout.splitlines()[-1]
