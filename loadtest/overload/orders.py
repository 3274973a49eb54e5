"""``python -m loadtest.overload.orders``: what each order does to the urgent and to equal callers, in virtual time.

The loads of ``loadtest/mixes`` without sockets, so without noise and in seconds: people whose questions go first, with
a batch that has a backlog; and five equal callers, one of whom asks for ten times as much. On the ``slow`` engine,
slots found while running. The same with processes and sockets is ``headgate compare --orders …``.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from headgate.gate import Claim, Ledger, make_order
from headgate.gate.limits import Limit
from headgate.gate.orders import Name
from headgate.workbench.bench.figures import jain, percentile
from headgate.workbench.rehearsal import Job, Rehearsal, poisson
from loadtest import options
from loadtest.overload.rehearsed import ENGINES, OBJECTIVE, WORK

ORDERS: tuple[Name, ...] = ("fifo", "priority", "fair")
ENGINE = "slow"
TOKENS = 300.0
"""What a request is expected to take, before anybody knows; it is settled at its end."""
STARVED_S = 30.0


@dataclass(frozen=True, slots=True)
class Caller:
    """One of several: so many requests a second, and so many at the very beginning."""

    name: str
    rate: float
    rank: int = 0
    backlog: int = 0


@dataclass(frozen=True, slots=True)
class Got:
    """What a caller got, of the requests that came after the warm-up.

    Attributes:
        asked, answered: how many.
        tokens_per_s: of prompts and answers, of those that were answered.
        ttft_p95_s, wait_p50_s, wait_p95_s: of those that were answered; 0 where none was.
        hold_s: how long they held a slot, in the mean.
        starved: of them, how many had waited for longer than 30 s.
    """

    asked: int
    answered: int
    tokens_per_s: float
    ttft_p95_s: float
    wait_p50_s: float
    wait_p95_s: float
    hold_s: float
    starved: int


def priorities(rate: float) -> list[Caller]:
    """As ``mixes/priorities.toml``."""
    return [Caller("people", rate / 5, rank=-1), Caller("batch", 4 * rate / 5, rank=1, backlog=60)]


def greedy(rate: float) -> list[Caller]:
    """As ``mixes/greedy.toml``."""
    modest = [Caller(name, rate / 14) for name in ("ann", "ben", "cleo", "dan")]
    return [Caller("greedy", 10 * rate / 14), *modest]


def play(order: Name, callers: Sequence[Caller], work: str, *, seconds: float, warm_s: float, seed: int) -> list[Got]:
    """What each caller got, in their order."""
    constants, limits = ENGINES[ENGINE]
    jobs = [_jobs(caller, number, work, seconds, seed) for number, caller in enumerate(callers)]
    limit = Limit(limits.max_num_seqs, itl_s=OBJECTIVE.itl_s, ttft_s=OBJECTIVE.ttft_s)
    rehearsal = Rehearsal(constants, limits, Ledger(order=make_order(order)), limit, None, OBJECTIVE)
    rehearsal.run(sorted((job for mine in jobs for job in mine), key=lambda job: job.at_s))
    return [_got([job for job in mine if job.at_s >= warm_s], seconds - warm_s) for mine in jobs]


def _jobs(caller: Caller, number: int, work: str, seconds: float, seed: int) -> list[Job]:
    claim = Claim(key=caller.name, rank=caller.rank, tokens=TOKENS)
    dice = random.Random(f"{seed}/{caller.name}")
    backlog = [Job(0.0, *WORK[work](dice), claim=claim) for _ in range(caller.backlog)]
    return backlog + poisson(caller.rate, seconds, WORK[work], seed=100 * seed + number, claim=claim)


def _got(jobs: Sequence[Job], seconds: float) -> Got:
    answered = [job for job in jobs if job.end_s is not None]
    waits = sorted(job.granted_s - job.at_s for job in answered if job.granted_s is not None)
    holds = [job.end_s - job.granted_s for job in answered if job.end_s is not None and job.granted_s is not None]
    return Got(
        asked=len(jobs),
        answered=len(answered),
        tokens_per_s=sum(job.prompt_tokens + job.output_tokens for job in answered) / seconds,
        ttft_p95_s=_at(95, sorted(job.ttft_s for job in answered if job.ttft_s is not None)),
        wait_p50_s=_at(50, waits),
        wait_p95_s=_at(95, waits),
        hold_s=sum(holds) / len(holds) if holds else 0.0,
        starved=sum(wait_s > STARVED_S for wait_s in waits),
    )


def _at(rank: float, values: Sequence[float]) -> float:
    return percentile(values, rank) if values else 0.0


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.orders", description=__doc__)
    parser.add_argument("--work", choices=sorted(WORK), default="mixed")
    parser.add_argument(
        "--rate", type=options.positive, default=10.7, help="of people and batch together (10.7, twice the peak)"
    )
    parser.add_argument("--greedy-rate", type=options.positive, default=32.0, help="of the five callers together (32)")
    parser.add_argument("--seconds", type=options.positive, default=300.0)
    parser.add_argument("--warm-s", type=options.not_negative, default=60.0)
    parser.add_argument("--seed", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.warm_s >= chosen.seconds:
        parser.error("--warm-s takes less than --seconds")
    people, batch = priorities(chosen.rate)
    greedy_callers = greedy(chosen.greedy_rate)
    how = {"seconds": chosen.seconds, "warm_s": chosen.warm_s, "seed": chosen.seed}
    (idle,) = play("fair", [people], chosen.work, **how)
    print(f"people alone: TTFT p95 {idle.ttft_p95_s:.2f} s, a request at the engine {idle.hold_s:.1f} s\n")
    print("| order | people: TTFT p95 | answered | batch: wait p50 | p95 | answered | starved | tokens/s |")
    print("|" + "---|" * 8)
    for order in ORDERS:
        high, low = play(order, [people, batch], chosen.work, **how)
        row = [order, f"{high.ttft_p95_s:.2f} s", f"{high.answered} of {high.asked}"]
        row += [f"{low.wait_p50_s:.1f} s", f"{low.wait_p95_s:.1f} s", f"{low.answered} of {low.asked}"]
        row += [str(high.starved + low.starved), f"{high.tokens_per_s + low.tokens_per_s:,.0f}"]
        print("| " + " | ".join(row) + " |", flush=True)
    print("\n| order | tokens/s: greedy | each of the others | Jain | all tokens/s | others' wait p50 |")
    print("|" + "---|" * 6)
    for order in ORDERS:
        found = play(order, greedy_callers, chosen.work, **how)
        tokens = [each.tokens_per_s for each in found]
        others = "–".join(f"{end(tokens[1:]):.0f}" for end in (min, max))
        wait_s = max(each.wait_p50_s for each in found[1:])
        index = jain(tokens)
        row = [order, f"{tokens[0]:.0f}", others, "–" if index is None else f"{index:.3f}"]
        row += [f"{sum(tokens):,.0f}", f"{wait_s:.1f} s"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(options.status(main))
