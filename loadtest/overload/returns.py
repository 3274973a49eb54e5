"""``python -m loadtest.overload.returns``: who comes back when ``Retry-After`` says so, and gets in; in virtual time.

Finite bursts, on a fresh gateway and after a while of calm, with slots found while running and with a fixed number:
nothing has ended yet when the first are refused, and the slots become fewer while the others wait. The same with
sockets is ``python -m loadtest.overload --on sockets --obey``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from headgate.errors import TOLD_MOST_S
from headgate.gate import Claim, Ledger, make_order
from headgate.gate.limits import Limit
from headgate.gate.outcomes import Refused, Verdict
from headgate.workbench.rehearsal import Job, Rehearsal, poisson
from loadtest import options
from loadtest.overload.rehearsed import ENGINES, OBJECTIVE, WORK

ENGINE = "slow"
ANSWER = {"20 in, 40 out": 40.0, "mixed": 128.0}
"""How long an answer is expected to be: what its caller allows, or what is taken where nobody says."""


@dataclass
class Returning(Rehearsal):
    """A rehearsal whose clients obey: who is refused comes back when it was told to.

    Attributes:
        tries: of each job, which try it is, from 1; a return is a job of its own.
        returned: how the returns went, by number of the return and what came of it.
    """

    tries: dict[Job, int] = field(default_factory=dict)
    returned: Counter[tuple[int, bool]] = field(default_factory=Counter)

    @property
    def all_jobs(self) -> list[Job]:
        """Each try of everybody."""
        return list(self._of.values())

    def _verdicts(self, now: float, verdicts: Iterable[Verdict]) -> None:
        verdicts = list(verdicts)
        super()._verdicts(now, verdicts)
        for verdict in verdicts:
            job = self._of[verdict.ticket]
            nth = self.tries.get(job, 1)
            is_in = not isinstance(verdict, Refused)
            if nth > 1:
                self.returned[nth - 1, is_in] += 1
            if isinstance(verdict, Refused):
                told_s = ceil(1000 * min(verdict.retry_after_s, TOLD_MOST_S)) / 1000
                again = Job(now + told_s, job.prompt_tokens, job.output_tokens, claim=job.claim._replace(booked=True))
                self.tries[again] = nth + 1
                self._left += 1
                self._at(again.at_s, self._arrival(again))


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one burst.

    Attributes:
        asked, refused: requests, and those of them that were refused when they came, or gave up their place.
        in_at_first: of those, how many were served on their first return.
        tries: of the one that had to come most often.
        over_s: when the last was served.
    """

    asked: int
    refused: int
    in_at_first: int
    tries: int
    over_s: float


def crowd(work: str, rate: float, seconds: float, *, seed: int, from_s: float = 0.0) -> list[Job]:
    """So many a second come for so long."""
    jobs = poisson(rate, seconds, WORK[work], seed=seed, claim=Claim(key="k", tokens=100.0, answer=ANSWER[work]))
    for job in jobs:
        job.at_s += from_s
    return jobs


def play(jobs: Sequence[Job], slots: int | None) -> Returning:
    """Until all were served; ``slots``: None: found while running."""
    constants, limits = ENGINES[ENGINE]
    limit = None if slots is not None else Limit(limits.max_num_seqs, itl_s=OBJECTIVE.itl_s, ttft_s=OBJECTIVE.ttft_s)
    played = Returning(constants, limits, Ledger(order=make_order("fair")), limit, slots, OBJECTIVE)
    played.run(jobs)
    return played


def came_of(work: str, load: Mapping[str, float], slots: int | None, seed: int) -> Came:
    """One burst: ``rate`` a second for ``seconds``, after ``calm`` a second for half a minute.

    Mixed answers are longer: of them half as many come, and a quarter before that.
    """
    less, calmer = (2.0, 4.0) if work == "mixed" else (1.0, 1.0)
    before = crowd(work, load["calm"] / calmer, CALM_S, seed=seed + 100) if load["calm"] else []
    from_s = CALM_S if before else 0.0
    burst = crowd(work, load["rate"] / less, load["seconds"], seed=seed, from_s=from_s)
    played = play([*before, *burst], slots)
    in_at_first = played.returned[1, True]
    return Came(
        asked=len(before) + len(burst),
        refused=in_at_first + played.returned[1, False],
        in_at_first=in_at_first,
        tries=max(played.tries.values(), default=1),
        over_s=max(job.end_s for job in played.all_jobs if job.end_s is not None) - from_s,
    )


CALM_S = 30.0
CASES: list[tuple[str, dict[str, float]]] = [
    ("94/s for 5 s, on a fresh gateway", {"rate": 94.2, "seconds": 5.0, "calm": 0.0}),
    ("94/s for 5 s, after 10/s for 30 s", {"rate": 94.2, "seconds": 5.0, "calm": 10.0}),
    ("80/s for 8 s, after 10/s for 30 s", {"rate": 80.0, "seconds": 8.0, "calm": 10.0}),
]


def main() -> None:
    """Print a row for each burst, work and kind of slots."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.returns", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    chosen = parser.parse_args()
    print("| burst | work | slots | refused at first | in at the first return | most tries | all served after |")
    print("|" + "---|" * 7)
    for name, load in CASES:
        for work in ANSWER:
            for slots in (None, 88):
                came = [came_of(work, load, slots, seed) for seed in chosen.seeds]
                asked, refused = (sum(getattr(each, name) for each in came) for name in ("asked", "refused"))
                share = f"{sum(each.in_at_first for each in came) / refused:.0%}" if refused else "–"
                row = [name, work, "auto" if slots is None else str(slots), f"{refused} of {asked}", share]
                row += [str(max(each.tries for each in came)), f"{max(each.over_s for each in came):.0f} s"]
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(options.status(main))
