"""Figures from measured values: percentiles, spreads, Jain's index. Pure.

Percentiles are nearest-rank: always a value that was measured, never one in between, and the highest where there are
too few to tell (the 99th of 50 values is the largest).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    # A rank such as 99.9 has no exact form: without the correction 99.9 % of 1,000 would be the 1,000th.
    position = ceil(round(rank / 100 * len(ordered), 9))
    return ordered[min(len(ordered), max(1, position)) - 1]


def spread(values: Iterable[float]) -> Spread | None:
    """None where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    ranks = {name: percentile(ordered, rank) for name, rank in RANKS.items()}
    # Rounding may take a mean of equal values beyond them by a last digit.
    mean = min(max(fsum(ordered) / len(ordered), ordered[0]), ordered[-1])
    return Spread(len(ordered), mean, ordered[0], max=ordered[-1], **ranks)


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
