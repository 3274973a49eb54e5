"""The last five minutes, a point a second: what the page draws.

Rates and quantiles follow from the counters' differences, so nothing is counted twice and the road knows nothing of
it. Apart from whoever ticks because it is arithmetic, and can be tested with times of one's own. Longer memories are
Prometheus' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KEPT = 300
"""Points."""
LATELY = 10
"""A second sees few first tokens or none: quantiles, and refusals by reason, are those of the last ten points."""


class Levels(NamedTuple):
    """What is so at one moment."""

    active: int
    max_active: int
    queue: int


class Totals(NamedTuple):
    """What was counted since the start.

    Attributes:
        refused: by reason.
        ttft: a histogram's counts by bucket, the last one without a bound.
    """

    requests: float
    refused: Mapping[str, float]
    tokens: float
    ttft: Sequence[int]


class Point(NamedTuple):
    """One second. ``t`` is its end in Unix time; quantiles are in seconds, None where no token came first."""

    t: float
    active: int
    max_active: int
    queue: int
    requests_per_s: float
    refused_per_s: float
    tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None


class Recent:
    """The points.

    Args:
        now: by the clock that ``add`` is given, in seconds that never go back.
        bounds: upper bounds of the buckets of ``Totals.ttft``.
    """

    def __init__(self, now: float, bounds: Sequence[float]) -> None:
        self._at = now
        self._bounds = bounds
        self._totals = Totals(0.0, {}, 0.0, [0] * (len(bounds) + 1))
        self._points: deque[Point] = deque(maxlen=KEPT)
        self._firsts: deque[list[int]] = deque(maxlen=LATELY)
        self._refused: deque[dict[str, int]] = deque(maxlen=LATELY)

    def add(self, now: float, unix: float, levels: Levels, totals: Totals) -> Point:
        """What happened between the last call and this one, as a point."""
        elapsed_s = max(now - self._at, 1e-3)
        before, self._totals, self._at = self._totals, totals, now
        self._firsts.append([new - old for new, old in zip(totals.ttft, before.ttft, strict=True)])
        refused = {
            reason: int(count - before.refused.get(reason, 0))
            for reason, count in totals.refused.items()
            if count > before.refused.get(reason, 0)
        }
        self._refused.append(refused)
        firsts = [sum(bucket) for bucket in zip(*self._firsts, strict=True)]
        point = Point(
            round(unix, 1),
            *levels,
            round((totals.requests - before.requests) / elapsed_s, 2),
            round(sum(refused.values()) / elapsed_s, 2),
            # Tokens that were let through can be taken back: of a stream that broke and is tried again.
            max(round((totals.tokens - before.tokens) / elapsed_s, 2), 0.0),
            quantile(0.5, self._bounds, firsts),
            quantile(0.95, self._bounds, firsts),
        )
        self._points.append(point)
        return point

    @property
    def newest(self) -> Point | None:
        """The last point; None before the first."""
        return self._points[-1] if self._points else None

    @property
    def refused(self) -> dict[str, int]:
        """How many were refused by reason, within the last ``LATELY`` points."""
        lately: dict[str, int] = {}
        for second in self._refused:
            for reason, count in second.items():
                lately[reason] = lately.get(reason, 0) + count
        return lately

    def columns(self) -> dict[str, object]:
        """All of them, the oldest first: a list for each of ``Point``'s names."""
        columns = zip(*self._points, strict=True) if self._points else ((),) * len(Point._fields)
        return {"step_s": 1, **dict(zip(Point._fields, map(list, columns), strict=True))}


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value below which ``share`` of the observations lie, as if those of a bucket lay evenly in it.

    Args:
        bounds: upper bounds of the buckets but the last, ascending.
        counts: observations by bucket; the last has no upper bound, and is taken to lie at its lower one.

    None where nothing was observed.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    below = 0
    lower = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return round(lower + (bound - lower) * (rank - below) / count, 4)
        below += count
        lower = bound
    return lower
