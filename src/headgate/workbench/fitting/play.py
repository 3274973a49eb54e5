"""A measured load, played again in virtual time on the simulated engine's scheduler. Pure.

The same requests, with the prompts and answers that the real engine counted, due when they were sent; in a closed loop
each user sends the next when the last has ended. Ends at figures, which are made of a play and of a measured run in
the same way. What a client adds (its own time, the network) is in the measured run and so in the constants.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, fields
from heapq import heapify, heappop, heappush

from headgate.simulator.constants import Constants, Limits
from headgate.simulator.scheduler import Scheduler
from headgate.simulator.sequence import Sequence
from headgate.workbench.bench.figures import percentile
from headgate.workbench.bench.raw import Outcome, Run

LEAST_ANSWERS = 4
REPLAYED = ("fixed", "mixed")


class Unfit(Exception):
    """A run that can't be played again: one line that says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was asked of an engine.

    Attributes:
        asks: when each was sent (in a closed loop without meaning), prompt and answer in tokens.
        users: of a closed loop; None: an open one.
        until_s: nobody sends after that.
    """

    asks: list[tuple[float, int, int]]
    users: int | None = None
    think_s: float = 0.0
    until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it. Times in seconds."""

    tokens_per_s: float
    ttft_p50: float
    ttft_mean: float
    ttft_p95: float
    gap_p50: float
    gap_mean: float
    gap_p95: float

    def errors(self, real: Figures) -> dict[str, float]:
        """How far each is from a real one, as a part of that: 0.1 is a tenth too much."""
        return {f.name: getattr(self, f.name) / getattr(real, f.name) - 1 for f in fields(self)}


def load_of(run: Run) -> Load:
    """What a run asked for. Raises Unfit where it can't be played again."""
    plan = run.header.plan
    if plan.trace is None and plan.workload not in REPLAYED:
        raise Unfit(f"{run.source}: its prompts share prefixes ({plan.workload}); take --workload fixed or mixed")
    if not plan.stream:
        raise Unfit(f"{run.source}: its answers came whole (--whole), so no token has a time")
    answered = [record for record in run.records if record.outcome is Outcome.OK]
    if len(answered) < LEAST_ANSWERS:
        raise Unfit(f"{run.source}: only {len(answered)} answers in it; measure for longer")
    if len(answered) < 0.95 * len(run.records):
        raise Unfit(f"{run.source}: {len(run.records) - len(answered)} of {len(run.records)} were not answered")
    if not all(record.prompt_tokens and record.tokens for record in answered):
        raise Unfit(f"{run.source}: the engine counted no tokens")
    asks = sorted((r.at_s + r.late_s, r.prompt_tokens, r.tokens) for r in answered)
    return Load(asks, plan.users, plan.think_s, min(plan.duration_s, run.end.offered_s or plan.duration_s))


def seen(run: Run) -> Figures:
    """The figures of a measured run. Raises Unfit where it has no times."""
    answered = [record for record in run.records if record.outcome is Outcome.OK]
    firsts = [r.ttft_s - r.late_s for r in answered if r.ttft_s is not None]
    gaps = [gap / 1000 for r in answered for gap in r.gaps_ms]
    if not firsts or not gaps:
        raise Unfit(f"{run.source}: its answers have one token each; take --output 50 or more")
    return _figures(sum(r.tokens for r in answered), run.end.span_s, firsts, gaps)


def play(constants: Constants, limits: Limits, load: Load) -> Figures:
    """What the simulated engine makes of a load."""
    scheduler = Scheduler(constants, limits)
    closed = load.users is not None
    due = [(0.0, n) for n in range(load.users or 0)] if closed else [(ask[0], n) for n, ask in enumerate(load.asks)]
    heapify(due)
    sent = len(due)
    firsts: list[float] = []
    gaps: dict[float, int] = {}
    tokens = 0
    now = 0.0
    while True:
        _send(scheduler, load, due, now)
        step = scheduler.begin(now)
        if step is None:
            coming = [at for at in (due[0][0] if due else None, scheduler.next_s) if at is not None]
            if not coming:
                break
            now = min(coming)
            continue
        end = now + step.seconds
        _send(scheduler, load, due, end)
        made = scheduler.end(step, end)
        now = end
        tokens += len(made.gained)
        firsts += [now - sequence.arrived_s for sequence in made.first]
        for gap, times in made.gaps.items():
            rounded = round(gap, 7)
            gaps[rounded] = gaps.get(rounded, 0) + times
        if closed:
            again = now + load.think_s
            for _ in made.ended:
                if again < load.until_s:
                    heappush(due, (again, sent))
                    sent += 1
    return _figures(tokens, now, firsts, [gap for gap, times in gaps.items() for _ in range(times)])


def _send(scheduler: Scheduler, load: Load, due: list[tuple[float, int]], now: float) -> None:
    while due and due[0][0] <= now:
        at, number = heappop(due)
        _, prompt, answer = load.asks[number % len(load.asks)]
        scheduler.add(Sequence(prompt, answer), at)


def _figures(tokens: int, span_s: float, firsts: Many[float], gaps: Many[float]) -> Figures:
    firsts, gaps = sorted(firsts), sorted(gaps)
    tiny = 1e-9  # a figure is divided by another
    return Figures(
        tokens_per_s=tokens / max(span_s, tiny),
        ttft_p50=max(tiny, percentile(firsts, 50)),
        ttft_mean=max(tiny, sum(firsts) / len(firsts)),
        ttft_p95=max(tiny, percentile(firsts, 95)),
        gap_p50=max(tiny, percentile(gaps, 50)) if gaps else tiny,
        gap_mean=max(tiny, sum(gaps) / len(gaps)) if gaps else tiny,
        gap_p95=max(tiny, percentile(gaps, 95)) if gaps else tiny,
    )
