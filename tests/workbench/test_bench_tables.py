"""What ``headgate bench`` prints, and that it can be read in 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from headgate.workbench.bench import tables
from headgate.workbench.bench.raw import CallerPlan, Plan, Record, Run
from headgate.workbench.bench.summary import summarize
from tests.workbench.test_bench_summary import ok, run


def printed(of: Run) -> str:
    console = Console(width=80)
    with console.capture() as seen:
        tables.show(console, of, summarize(of), "r.jsonl")
    return seen.get()


def test_no_figure_of_a_caller_is_cut_short() -> None:
    """Where there was no wide terminal, in CI say, each figure was one digit and an ellipsis."""
    plan = Plan(rate="10", duration_s=10.0, callers=[CallerPlan("greedy", 9.0), CallerPlan("somebody of a long name")])
    callers = ["somebody of a long name" if n % 9 else "greedy" for n in range(3000)]
    records: list[Record] = [ok(n, 43.0, ttft_s=31.0, tokens=500, caller=callers[n]) for n in range(3000)]
    shown = printed(run(records, plan, span_s=400.0))
    assert "…" not in shown
    assert "2,666    2,666       0  3,332    0 31 s 31 s 43 s    43 s   2,666" in shown


@pytest.mark.parametrize(
    ("records", "plan", "said"),
    [
        ({"tokens": 8, "estimated": True, "ttft_s": 0.1}, {}, "8 out; the engine counts no tokens: events are taken"),
        ({"tokens": 0, "estimated": True}, {"stream": False}, "mean        the engine counts no tokens"),
        ({"tokens": 0, "estimated": True}, {}, "2 answers were shorter than asked"),
        ({"tokens": 8, "prompt_tokens": 20}, {}, "20 tokens in, 8 out; 2 answers were shorter than asked"),
        ({"tokens": 20, "prompt_tokens": 20}, {}, "20 tokens in, 20 out "),
    ],
    ids=["events", "whole", "empty", "short", "as asked"],
)
def test_whose_count_the_tokens_are_is_said(records: dict[str, Any], plan: dict[str, Any], said: str) -> None:
    """Without the engine's count every answer was said to be shorter than asked."""
    shown = printed(run([ok(n, asked_tokens=20, **records) for n in range(2)], Plan(rate="10", **plan)))
    assert said in shown
    assert ("shorter than asked" in shown) == ("shorter" in said)


def test_a_load_that_its_number_of_requests_ended_says_so() -> None:
    """A ramp that stopped half-way up was shown as the whole of it."""
    plan = Plan(rate="ramp:1-99", duration_s=60.0, requests=2)
    assert "ended by --requests 2 after 10 s of 1 min" in " ".join(printed(run([ok(0), ok(1)], plan)).split())
    assert "--requests" not in printed(run([ok(0)], plan))
