"""The values behind each figure, picked from raw records. Pure, and nothing about drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headgate.workbench.bench import slo
from headgate.workbench.bench.figures import percentile
from headgate.workbench.bench.raw import Objective, Outcome, Record
from headgate.workbench.bench.summary import is_good
from headgate.workbench.compare.medians import Judged

Point = tuple[float, float]

MOST_POINTS = 400
BINS = 60

GOOD, LATE = "answered within the SLO", "answered, but later than the SLO"


@dataclass(frozen=True, slots=True)
class Group:
    """All rounds of one target under one load."""

    target: str
    load: str
    runs: tuple[Judged, ...]

    @property
    def records(self) -> list[Record]:
        """Of all rounds, those left by an interruption excepted."""
        return [
            record
            for one in self.runs
            for record in one.run.counted
            if record.outcome is not Outcome.UNFINISHED or not one.run.end.interrupted
        ]

    @property
    def sources(self) -> list[str]:
        """The files."""
        return [one.run.source for one in self.runs]

    @property
    def offered_per_s(self) -> float:
        """The mean over the rounds."""
        return sum(one.summary.offered_per_s for one in self.runs) / len(self.runs)


def groups(of: Sequence[Judged]) -> list[Group]:
    """By load and target, in the order in which they first come."""
    found: dict[tuple[str, str], list[Judged]] = {}
    for one in of:
        found.setdefault((one.load, one.target), []).append(one)
    return [Group(target, load, tuple(runs)) for (load, target), runs in found.items()]


def cumulative(values: Iterable[float], of: int) -> list[Point]:
    """For each value the share of ``of`` that is at or below it; thinned out where there are very many.

    ``of`` counts those without a value too (refused, failed): they never come, and the line ends below 1.
    """
    ordered = sorted(values)
    if not ordered or of <= 0:
        return []
    step = max(1, len(ordered) // MOST_POINTS)
    # The upper end is where it is interesting: the last hundredth is never thinned out.
    tail = len(ordered) - max(1, len(ordered) // 100)
    points = [(value, (n + 1) / of) for n, value in enumerate(ordered) if n % step == 0 or n >= tail]
    return [(points[0][0], 0.0), *points]


def latencies(group: Group) -> tuple[list[float], int]:
    """Of those answered, and how many requests there were."""
    records = group.records
    return [record.latency_s for record in records if record.outcome is Outcome.OK], len(records)


def first_tokens(group: Group) -> list[Point]:
    """(when it was due, time to first token), of those answered; in order of time."""
    return sorted(
        (record.at_s, record.ttft_s)
        for record in group.records
        if record.outcome is Outcome.OK and record.ttft_s is not None
    )


def gaps(group: Group) -> list[float]:
    """Between tokens, in seconds, of all that were answered."""
    return [gap / 1000 for r in group.records if r.outcome is Outcome.OK for gap in r.gaps_ms]


def binned(points: Sequence[Point], until: float, rank: float) -> list[Point]:
    """A percentile for each of ``BINS`` stretches of time; stretches with nothing in them are left out."""
    bins: list[list[float]] = [[] for _ in range(BINS)]
    for at, value in points:
        bins[min(BINS - 1, int(at / until * BINS))].append(value)
    return [((n + 0.5) * until / BINS, percentile(sorted(found), rank)) for n, found in enumerate(bins) if found]


def per_second(times: Iterable[float], until: float, rounds: int) -> list[Point]:
    """How many there were in each stretch of time, as a rate."""
    width = max(until / BINS, 0.5)
    count = max(1, round(until / width))
    width = until / count
    bins = [0] * count
    for at in times:
        if 0 <= at <= until:  # the last answer of a run ends with it
            bins[min(count - 1, int(at / width))] += 1
    return [(n * width, found / width / rounds) for n, found in enumerate(bins)]


def fates(group: Group) -> list[tuple[str, int]]:
    """What became of requests: the good, the late, then refusals and errors by reason, the commonest first."""
    good = late = 0
    others: Counter[tuple[int, str]] = Counter()
    for one in group.runs:
        bounds = slo.good(objectives(one))
        for record in one.run.counted:
            if record.outcome is Outcome.OK:
                if is_good(record, bounds):
                    good += 1
                else:
                    late += 1
            elif not (record.outcome is Outcome.UNFINISHED and one.run.end.interrupted):
                said = f"{record.status} {record.reason}" if record.status else record.reason
                others[0 if record.outcome is Outcome.REFUSED else 1, said] += 1
    ordered = sorted(others.items(), key=lambda pair: (pair[0][0], -pair[1], pair[0][1]))
    named = [(f"{'refused' if kind == 0 else 'error'}: {said}", count) for (kind, said), count in ordered]
    return [(name, count) for name, count in [(GOOD, good), (LATE, late), *named] if count]


def objectives(one: Judged) -> list[Objective]:
    """Those it was judged by, which need not be its own."""
    return [Objective(judged.name, judged.bound) for judged in one.summary.objectives]
