"""The workloads, the engines, and one cell of the table: goodput at so many times the capacity."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median

from headgate.gate import Claim, Ledger, make_order
from headgate.gate.limits import Limit
from headgate.gate.orders import Name
from headgate.simulator.constants import Constants, Limits
from headgate.workbench.rehearsal import Objective, Rehearsal, goodput, poisson

Shape = Callable[[random.Random], tuple[int, int]]

OBJECTIVE = Objective(ttft_s=1.0, itl_s=0.1)


def _mixed(dice: random.Random) -> tuple[int, int]:
    return int(dice.lognormvariate(5, 1)) % 1500 + 1, min(600, int(dice.expovariate(1 / 150)) + 1)


WORK: dict[str, Shape] = {
    "200 in, 200 out": lambda dice: (200, 200),
    "20 in, 40 out": lambda dice: (20, 40),
    "1500 in, 64 out": lambda dice: (1500, 64),
    "mixed": _mixed,
}
"""Prompt and answer, in tokens."""

ENGINES: dict[str, tuple[Constants, Limits]] = {
    "fast": (Constants(), Limits(max_num_seqs=256, num_gpu_blocks=8192)),
    "fast, small KV cache": (Constants(), Limits(max_num_seqs=256, num_gpu_blocks=4096)),
    "slow": (
        Constants(base_s=0.02, per_sequence_s=0.0008, per_prefill_token_s=0.0001),
        Limits(max_num_seqs=256, num_gpu_blocks=8192),
    ),
}
"""``fast``: a 0.5 B model on a small GPU; it keeps the inter-token objective with all of its 256 sequences. ``slow``: a
large one, which doesn't: the objective allows about 90."""

BURST_S, BURST, LULL = 10.0, 1.9, 18
"""Bursts of 10 s at 1.9 times the rate; between them an eighteenth of that comes, so that the mean is the rate."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run.

    Attributes:
        good: good answers a second.
        ttft_p50_s: of those that were answered.
        refused: requests refused, by reason.
        slots: at the end; None where there is no gate.
        history: the slots after each second.
    """

    good: float
    ttft_p50_s: float
    refused: Counter[str]
    slots: int | None
    history: list[int] = field(default_factory=list)

    def found_s(self, within: float = 0.15) -> int:
        """Seconds after which the slots stayed as near as this to their mean in the run's second half."""
        half = self.history[len(self.history) // 2 :]
        mean = fmean(half) if half else 0.0
        off = [at for at, slots in enumerate(self.history, 1) if abs(slots - mean) > within * mean]
        return off[-1] if off else 0


def peak(
    work: str, engine: str, *, seconds: float = 60.0, seed: int = 1, objective: Objective = OBJECTIVE
) -> tuple[float, float]:
    """The most good answers a second that the engine gives by itself, and the load at which it does."""
    best, at, rate = 0.0, 1.0, 1.0
    while rate < 2000:
        outcome = run(
            work, engine, rate, gate=None, seconds=seconds, warm_s=seconds / 6, seed=seed, objective=objective
        )
        if outcome.good > best:
            best, at = outcome.good, rate
        elif outcome.good < 0.7 * best:
            break
        rate *= 1.15
    return best, at


def run(
    work: str,
    engine: str,
    rate: float,
    *,
    gate: Name | None,
    slots: int | None = None,
    seconds: float,
    warm_s: float,
    seed: int,
    objective: Objective = OBJECTIVE,
    bursty: bool = False,
) -> Outcome:
    """Offer ``rate`` requests a second for ``seconds``, and look at those that came after ``warm_s``.

    Args:
        gate: the order of its line; None: no gate.
        slots: a fixed number of them; None: found while running.
        bursty: 10 s of nearly twice the rate, 10 s of next to nothing, and again.
    """
    constants, limits = ENGINES[engine]
    claim = Claim(key="k", tokens=400.0)
    jobs = poisson(rate * BURST if bursty else rate, seconds, WORK[work], seed=seed, claim=claim)
    if bursty:
        jobs = [job for number, job in enumerate(jobs) if job.at_s % (2 * BURST_S) < BURST_S or number % LULL == 0]
    if gate is None:
        rehearsal = Rehearsal(constants, limits)
    else:
        limit = None
        if slots is None:
            limit = Limit(
                limits.max_num_seqs, itl_s=objective.itl_s, ttft_s=objective.ttft_s, latency_s=objective.latency_s
            )
        rehearsal = Rehearsal(constants, limits, Ledger(order=make_order(gate)), limit, slots, objective)
    rehearsal.run(jobs)
    looked_at = [job for job in jobs if job.at_s >= warm_s]
    firsts_s = [job.ttft_s for job in looked_at if job.ttft_s is not None]
    return Outcome(
        good=goodput(jobs, objective, warm_s, seconds),
        ttft_p50_s=median(firsts_s) if firsts_s else 0.0,
        refused=Counter(job.refused for job in looked_at if job.refused is not None),
        slots=rehearsal.history[-1] if rehearsal.history else slots,
        history=rehearsal.history,
    )
