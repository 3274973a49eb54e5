"""``python -m loadtest.overload.waits``: what those who wait are told, and how long they then wait; in virtual time.

The ``slow`` engine with a fixed number of slots, and chats beside a batch: few long answers among many short ones,
which is where a mean says little. What is told is looked at when somebody comes: the forecast that the metric
``api_wait_prediction_error_seconds`` judges, and what ``/status`` and ``x-headgate-wait`` say.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean

from headgate.gate import Claim, Ledger, make_order
from headgate.gate.estimate import Estimate
from headgate.gate.orders import ORDERS, Name
from headgate.workbench.rehearsal import Job, Rehearsal
from loadtest import options
from loadtest.overload.rehearsed import ENGINES

ENGINE = "slow"
PROMPT = 20
LINE = 16
"""Places in the line: who comes to a full one is refused."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One kind of request.

    Attributes:
        key: whose it is.
        share: of all requests.
        answer: draws how many tokens it takes.
        says: whether the request names that as its most; else only what this key's took before is known.
    """

    key: str
    share: float
    answer: Callable[[random.Random], int]
    says: bool


WORK: dict[str, Sequence[Caller]] = {
    "all 40 tokens": [Caller("a", 1.0, lambda _: 40, says=True)],
    "any length": [Caller("a", 1.0, lambda dice: min(600, int(dice.expovariate(1 / 150)) + 1), says=False)],
    "chats and a batch, two keys": [
        Caller("chat", 0.7, lambda dice: dice.randint(10, 30), says=False),
        Caller("batch", 0.3, lambda dice: dice.randint(300, 500), says=False),
    ],
    "the same, one key": [
        Caller("a", 0.7, lambda _: 16, says=True),
        Caller("a", 0.3, lambda dice: dice.randint(300, 500), says=False),
    ],
}


@dataclass
class Told(Rehearsal):
    """A rehearsal that writes down what each is told when it has to wait.

    Attributes:
        most: what requests name as their most.
        forecast: what is forecast for each, in seconds; shown: what ``/status`` says.
    """

    most: dict[Job, int] = field(default_factory=dict)
    forecast: dict[Job, float] = field(default_factory=dict)
    shown: dict[Job, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._estimate = Estimate()

    def _claim(self, job: Job) -> Claim:
        answer = self._estimate.answer(job.claim.key, self.most.get(job))
        return super()._claim(job)._replace(answer=answer, tokens=job.prompt_tokens + answer)

    def _arrive(self, now: float, job: Job) -> None:
        super()._arrive(now, job)
        ticket = self._tickets[job]
        if ticket.waiting and ticket.predicted_s is not None and self.ledger is not None:
            line, _ = self.ledger.outlook(now, LINE)
            self.forecast[job] = ticket.predicted_s
            self.shown[job] = next(each.eta_s for each in line if each.number == ticket.number) or 0.0

    def _ended(self, job: Job) -> None:
        super()._ended(job)
        if job.end_s is not None:
            tokens = job.prompt_tokens, job.output_tokens
            self._estimate.learn(job.claim.key, 4 * job.prompt_tokens, *tokens, most=self.most.get(job))


@dataclass(frozen=True, slots=True)
class Error:
    """How far off something was that was told, in the mean: signed (``bias_s``), and not (``error_s``)."""

    wait_s: float
    bias_s: float
    error_s: float


def error_of(told: dict[Job, float]) -> Error:
    """Of those who were served, but for the first fifth: nothing is known when they come."""
    waits = [(told_s, job.granted_s - job.at_s) for job, told_s in told.items() if job.granted_s is not None]
    waits = waits[len(waits) // 5 :]
    return Error(
        fmean(wait_s for _, wait_s in waits),
        fmean(told_s - wait_s for told_s, wait_s in waits),
        fmean(abs(told_s - wait_s) for told_s, wait_s in waits),
    )


def play(work: str, slots: int, order: Name, *, seed: int, load: float = 1.5) -> Told:
    """So many times what the slots can take, until all have been served."""
    constants, limits = ENGINES[ENGINE]
    dice = random.Random(seed)
    mean = fmean(caller.share * caller.answer(dice) for caller in WORK[work] for _ in range(1000)) * len(WORK[work])
    rate = load * slots / (mean * (constants.base_s + slots * constants.per_sequence_s))
    ledger = Ledger(order=make_order(order), queue_max=LINE, queue_timeout_s=inf)
    told = Told(constants, limits, ledger, None, slots)
    jobs: list[Job] = []
    at_s = 0.0
    for _ in range(600 + 20 * slots):
        at_s += dice.expovariate(rate)
        caller = dice.choices(WORK[work], [caller.share for caller in WORK[work]])[0]
        job = Job(at_s, PROMPT, caller.answer(dice), claim=Claim(key=caller.key))
        jobs.append(job)
        if caller.says:
            told.most[job] = job.output_tokens
    told.run(jobs)
    return told


def errors(work: str, slots: int, order: Name, seeds: Sequence[int]) -> tuple[Error, Error]:
    """Of the forecast, and of what is shown, in the mean over the seeds."""
    played = [play(work, slots, order, seed=seed) for seed in seeds]
    kinds = [error_of(told.forecast) for told in played], [error_of(told.shown) for told in played]
    forecast, shown = (
        Error(*(fmean(getattr(each, name) for each in kind) for name in ("wait_s", "bias_s", "error_s")))
        for kind in kinds
    )
    return forecast, shown


def main() -> None:
    """Print a row for each work and number of slots."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.waits", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--order", choices=list(ORDERS), default="fair")
    chosen = parser.parse_args()
    print("| work | slots | waited | forecast: off by | signed | shown: off by | signed |")
    print("|" + "---|" * 7)
    for work in WORK:
        for slots in (1, 2, 8, 88):
            forecast, shown = errors(work, slots, chosen.order, chosen.seeds)
            row = [work, str(slots), f"{forecast.wait_s:.2f} s"]
            for each in (forecast, shown):
                row += [f"{each.error_s:.2f} s", f"{each.bias_s:+.2f} s"]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(options.status(main))
