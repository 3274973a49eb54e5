"""The scrape benchmark: its arithmetic, and that it runs from beginning to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.overhead.bench import RoundError
from loadtest.scrape.run import Window, cost_ms, main, measure, parse

ROOT = Path(__file__).parents[2]


def test_what_would_have_been_burned_anyway_is_no_cost_of_a_scrape() -> None:
    quiet = Window(cpu_s=0.2, wall_s=2.0)
    assert cost_ms(quiet, Window(cpu_s=0.3, wall_s=2.0), 10) == pytest.approx(10.0)
    assert cost_ms(quiet, Window(cpu_s=0.3, wall_s=3.0), 10) == pytest.approx(0.0), (
        "a longer window burns more by itself"
    )


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--streams", "-1"], "'-1' is no whole number from 1"),
        (["--scrapes", "0"], "'0' is no whole number from 1"),
        (["--rounds", "0"], "'0' is no whole number from 1"),
        (["--window-s", "0"], "'0' is not above 0"),
        (["--limit-ms", "nan"], "'nan' is no number"),
        (["--pages", "text,none"], "'none' is none of"),
        (["--pages", ","], "--pages names none"),
    ],
)
def test_what_nothing_can_be_measured_with_is_one_line_and_2(
    flags: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were tracebacks after a minute, and a wait for fewer streams than none."""
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_streams_that_were_lost_are_no_figures() -> None:
    """Their client died, and the cost of a scrape of an idle gateway was shown as one under streams."""

    class Lost:
        def window(self, wall_s: float, page: str, scrapes: int) -> Window:
            return Window(cpu_s=0.1, wall_s=wall_s)

        def active(self) -> int:
            return 2

    options = parse(["--rounds", "1", "--pages", "text"])
    with pytest.raises(RoundError, match="2 of 3 streams were left"):
        measure(Lost(), 3, options)  # type: ignore[arg-type]


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
