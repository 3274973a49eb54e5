"""Figures from measured values: percentiles, spreads, Jain's index. Pure.

Percentiles are nearest-rank: always a value that was measured, never one in between, and the highest where there are
too few to tell (the 99th of 50 values is the largest).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, fsum

import msgspec

RANKS = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}


class Spread(msgspec.Struct, frozen=True):
    """Values of one kind: how many, and where they lie."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    def at(self, name: str) -> float:
        """By its name in an SLO: ``p95``, ``mean``, ``max``."""
        value = getattr(self, name)
        return float(value)


def percentile(ordered: Sequence[float], rank: float) -> float:
    """The nearest-rank percentile of values in ascending order; there must be one."""
    return ordered[position(len(ordered), rank) - 1]


def position(count: int, rank: float) -> int:
    """Which of so many values, in ascending order and counted from 1, has the nearest rank."""
    # A rank such as 99.9 has no exact form: without the correction 99.9 % of 1,000 would be the 1,000th.
    return min(count, max(1, ceil(round(rank / 100 * count, 9))))


def spread(values: Iterable[float]) -> Spread | None:
    """None where there are no values."""
    # Millions of gaps between tokens have few different values: counted, they need no memory and no long sorting.
    counts = Counter(values)
    if not counts:
        return None
    ordered = sorted(counts)
    ends = list(accumulate(counts[value] for value in ordered))
    count = ends[-1]
    ranks = {name: ordered[bisect_left(ends, position(count, rank))] for name, rank in RANKS.items()}
    # Rounding may take a mean of equal values beyond them by a last digit.
    mean = min(max(fsum(value * times for value, times in counts.items()) / count, ordered[0]), ordered[-1])
    return Spread(count, mean, ordered[0], max=ordered[-1], **ranks)


def jain(shares: Sequence[float]) -> float | None:
    """Jain's fairness index of what each one got: 1 where all got the same, 1/n where one got it all.

    None for fewer than two, and where nobody got anything. Jain, Chiu, Hawe: A Quantitative Measure of Fairness, 1984.
    """
    largest = max(shares, default=0.0)
    if len(shares) < 2 or largest <= 0:
        return None
    scaled = [share / largest for share in shares]  # squares of very small values would vanish
    index = fsum(scaled) ** 2 / (len(scaled) * fsum(share * share for share in scaled))
    return min(1.0, max(1 / len(scaled), index))


def median(values: Iterable[float | None]) -> float | None:
    """The middle one of those that are there, the mean of the two in the middle where they are even."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
