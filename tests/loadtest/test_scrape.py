"""The scrape benchmark: its arithmetic, and that it runs from beginning to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.scrape.run import Window, cost_ms

ROOT = Path(__file__).parents[2]


def test_what_would_have_been_burned_anyway_is_no_cost_of_a_scrape() -> None:
    quiet = Window(cpu_s=0.2, wall_s=2.0)
    assert cost_ms(quiet, Window(cpu_s=0.3, wall_s=2.0), 10) == pytest.approx(10.0)
    assert cost_ms(quiet, Window(cpu_s=0.3, wall_s=3.0), 10) == pytest.approx(0.0), (
        "a longer window burns more by itself"
    )


def test_it_runs_and_leaves_nothing_behind() -> None:
    flags = ("--streams", "3", "--scrapes", "4", "--window-s", "0.2", "--rounds", "1", "--limit-ms", "1000", "--json")
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.scrape", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    costs = json.loads(ended.stdout)["costs"]
    assert [(cost["page"], cost["streams"]) for cost in costs] == [
        (page, streams) for streams in (0, 3) for page in ("text", "openmetrics", "json", "status")
    ]
    assert all(cost["size_bytes"] > 0 and len(cost["rounds_ms"]) == 1 for cost in costs)
