"""What ``headgate bench`` prints, and that it can be read in 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from headgate.workbench.bench import tables
from headgate.workbench.bench.raw import Plan, Run
from headgate.workbench.bench.summary import summarize
from tests.workbench.test_bench_summary import ok, run


def printed(of: Run) -> str:
    console = Console(width=80)
    with console.capture() as seen:
        tables.show(console, of, summarize(of), "r.jsonl")
    return seen.get()


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
