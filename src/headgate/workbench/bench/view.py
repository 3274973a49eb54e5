"""The load while it runs, in a terminal: five lines, drawn anew twice a second by a thread of its own.

It reads what the load tells (``Progress``) and disturbs it as little as it can; where there is no terminal nothing is
drawn. 80 columns suffice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from headgate.workbench.bench.figures import percentile
from headgate.workbench.bench.load import Progress, Recent
from headgate.workbench.bench.raw import Outcome, Plan
from headgate.workbench.top.words import bar, rate, span

WINDOW_S = 5.0
_WIDTH = 78


@contextmanager
def shown(console: Console | None, title: str, plan: Plan, progress: Progress) -> Iterator[None]:
    """Draw the load for as long as this is open, and leave nothing behind."""
    if console is None or not console.is_terminal:
        yield
        return
    with Live(
        console=console,
        transient=True,
        refresh_per_second=2,
        get_renderable=lambda: frame(title, plan, progress, monotonic()),
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield


def frame(title: str, plan: Plan, progress: Progress, now: float) -> Group:
    """One picture of the load."""
    passed_s = max(0.0, now - progress.started_at) if progress.started_at else 0.0
    share = min(1.0, max(passed_s / plan.duration_s, progress.due / plan.requests))
    ended = progress.ended
    head = Text(title[: _WIDTH - 1], "bold")
    left = "waiting for the last answers" if progress.draining else f"{span(passed_s)} of {span(plan.duration_s)}"
    line = Text.assemble((bar(share, 40), "cyan"), f"  {left}; Ctrl-C ends it")
    flow = Text(f"due {progress.due:,}   in flight {progress.in_flight:,}")
    if progress.waiting:
        flow.append(f" ({progress.waiting:,} of them told to come back later)", "yellow")
    bad = ended[Outcome.ERROR] + ended[Outcome.UNFINISHED]
    ends = Text.assemble(
        (f"answered {ended[Outcome.OK]:,}", "green"),
        (f"   refused {ended[Outcome.REFUSED]:,}", "yellow" if ended[Outcome.REFUSED] else ""),
        (f"   errors {bad:,}", "red" if bad else ""),
        _commonest(progress),
    )
    first, latency = _recent(progress.first_s, now), _recent(progress.latency_s, now)
    over_s = max(0.1, min(WINDOW_S, passed_s))
    tokens = sum(_recent(progress.tokens_at, now)) / over_s
    times = Text(
        f"last {WINDOW_S:g} s: {rate(len(latency) / over_s)} answers/s, {rate(tokens)} tokens/s"
        f"   TTFT {_pair(first)}   latency {_pair(latency)}"
    )
    lines = [head, line, flow, ends, times]
    if progress.late_s > 0.01:
        lines.append(Text(f"this client is {span(progress.late_s)} late itself", "bold red"))
    for text in lines:
        text.no_wrap = True
        text.overflow = "ellipsis"
    return Group(*lines)


def _commonest(progress: Progress) -> str:
    reasons = dict(progress.reasons)
    return f"   mostly {max(reasons, key=reasons.__getitem__)}" if reasons else ""


def _recent(values: Recent, now: float) -> list[float]:
    return sorted(value for when, value in list(values) if when >= now - WINDOW_S)


def _pair(ordered: list[float]) -> str:
    if not ordered:
        return "-"
    return f"{span(percentile(ordered, 50))} / {span(percentile(ordered, 95))}"
