"""Rates and quantiles from two looks at the gateway's counters. Pure: time is in the readings.

The counters only grow, so what lies between two readings is exact, however many there were in between; a gateway that
was started anew counts from 0 again, and is told by its uptime. Quantiles are interpolated within a histogram's
bucket, as Prometheus does it: no finer than the buckets are. It ends at ``Rates``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from headgate.errors import Reason
from headgate.workbench.top.picture import Metrics, Sample, Status

WINDOW_S = 10.0

_FAILURES = (Reason.ENGINE_FAILED, Reason.REQUEST_TIMEOUT)
"""What was let in and not answered; every other reason is a refusal."""

_K = TypeVar("_K", str, float)

Counts = Mapping[str, float]
Buckets = Mapping[float, float]
"""By upper bound, how many were up to it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment of the reader's clock; ``ended`` by reason, of those routes that take slots."""

    at_s: float
    uptime_s: float = 0.0
    cpu_s: float = 0.0
    ended: Counts = field(default_factory=dict)
    tokens: Counts = field(default_factory=dict)
    refused: Counts = field(default_factory=dict)
    left: Counts = field(default_factory=dict)
    ttft: Buckets = field(default_factory=dict)
    wait: Buckets = field(default_factory=dict)
    gaps: Buckets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened in ``over_s`` seconds. Seconds are None where nothing was measured."""

    over_s: float
    requests_per_s: float
    ok_per_s: float
    refused_per_s: float
    left_per_s: float
    failed_per_s: float
    tokens_out_per_s: float
    tokens_in_per_s: float
    events_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    queue_wait_p95_s: float | None
    inter_token_p95_s: float | None
    cpu: float
    refused_by_reason_per_s: dict[str, float]


def read(at_s: float, status: Status, metrics: Metrics, routes: Collection[str]) -> Reading:
    """A reading of both pages; ``routes`` are those whose requests count as work."""

    def samples(family: str, name: str) -> list[Sample]:
        return [s for s in metrics[family].samples if s.name == name] if family in metrics else []

    def by(label: str, family: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for sample in samples(family, f"{family}_total"):
            if family != "api_requests" or sample.labels.get("route") in routes:
                key = sample.labels.get(label, "")
                sums[key] = sums.get(key, 0.0) + (sample.value or 0.0)
        return sums

    def buckets(family: str) -> dict[float, float]:
        sums: dict[float, float] = {}
        for sample in samples(family, f"{family}_bucket"):
            bound = float(sample.labels["le"])
            sums[bound] = sums.get(bound, 0.0) + (sample.value or 0.0)
        return sums

    return Reading(
        at_s,
        status.uptime_s,
        status.process.cpu_s,
        ended=by("reason", "api_requests"),
        tokens=by("kind", "api_tokens"),
        refused=by("reason", "api_refusals"),
        left=by("stage", "api_cancelled"),
        ttft=buckets("api_time_to_first_token_seconds"),
        wait=buckets("api_queue_wait_seconds"),
        gaps=buckets("api_inter_token_latency_seconds"),
    )


class Window:
    """The readings of the last ``length_s`` seconds: the newest, and the one it is compared with."""

    def __init__(self, length_s: float = WINDOW_S) -> None:
        self._length_s = length_s
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> None:
        """Take the next one. Those from before a restart of the gateway say nothing about this one."""
        if self._readings and reading.uptime_s < self._readings[-1].uptime_s:
            self._readings.clear()
        self._readings.append(reading)
        while len(self._readings) > 2 and self._readings[1].at_s <= reading.at_s - self._length_s:
            self._readings.popleft()

    def rates(self) -> Rates | None:
        """Over the window; None until there are two readings."""
        return between(self._readings[0], self._readings[-1]) if len(self._readings) > 1 else None


def between(old: Reading, new: Reading) -> Rates:
    """What happened between two readings of the same gateway."""
    over_s = max(new.at_s - old.at_s, 1e-9)
    ended = _grown(old.ended, new.ended)
    ok, left = ended.get("ok", 0.0), ended.get("client_left", 0.0)
    failed = sum(ended.get(reason, 0.0) for reason in _FAILURES)
    tokens = _grown(old.tokens, new.tokens)
    refused = _grown(old.refused, new.refused)
    gaps = _grown(old.gaps, new.gaps)
    ttft = _grown(old.ttft, new.ttft)
    return Rates(
        over_s=over_s,
        requests_per_s=sum(ended.values()) / over_s,
        ok_per_s=ok / over_s,
        refused_per_s=(sum(ended.values()) - ok - left - failed) / over_s,
        left_per_s=left / over_s,
        failed_per_s=failed / over_s,
        tokens_out_per_s=(tokens.get("completion", 0.0) + tokens.get("completion_estimated", 0.0)) / over_s,
        tokens_in_per_s=tokens.get("prompt", 0.0) / over_s,
        events_per_s=gaps.get(inf, 0.0) / over_s,
        ttft_p50_s=quantile(ttft, 0.5),
        ttft_p95_s=quantile(ttft, 0.95),
        queue_wait_p95_s=quantile(_grown(old.wait, new.wait), 0.95),
        inter_token_p95_s=quantile(gaps, 0.95),
        cpu=max(0.0, new.cpu_s - old.cpu_s) / over_s,
        refused_by_reason_per_s={reason: n / over_s for reason, n in refused.items() if n > 0},
    )


def quantile(buckets: Buckets, q: float) -> float | None:
    """The value that a share ``q`` of all lies below; the highest finite bound where it lies beyond that."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank = q * total
    lower = below = 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            return lower if bound == inf else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = (lower if bound == inf else bound), count
    return lower


def _grown(old: Mapping[_K, float], new: Mapping[_K, float]) -> dict[_K, float]:
    return {key: max(0.0, value - old.get(key, 0.0)) for key, value in new.items()}
