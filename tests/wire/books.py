"""What ``/metrics`` has grown by since a moment, all of it, to be compared with what was sent.

    books = Books(gate)
    ...
    books.until(answered("ok", tokens={"prompt": 7}))

Every sample of every ``api_*`` counter and histogram takes part, so that a count too many anywhere is seen. Sums of
seconds are left out of the comparison and looked at for themselves; so are the requests for the operation routes, which
asking for the books is made of.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from tests.wire.client import CHAT, MODEL
from tests.wire.gateway import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.wire.gateway import Gateway

Grown = dict[str, float]
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
OPERATION = frozenset(("/health", "/ready", "/metrics", "/status"))


def families(text: str) -> list[Metric]:
    """A page of Prometheus text."""
    return list(parser.text_string_to_metric_families(text))


def open_families(text: str) -> list[Metric]:
    """A page of OpenMetrics."""
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def series(name: str, labels: Mapping[str, str]) -> str:
    """A sample's name with its labels, as a page has it."""
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def counted(page: list[Metric]) -> Grown:
    """Every sample of our counters and histograms, but for buckets."""
    found: Grown = {}
    for family in page:
        if not family.name.startswith("api_") or family.type not in ("counter", "histogram"):
            continue
        for sample in family.samples:
            if not sample.name.endswith("_bucket") and sample.labels.get("route") not in OPERATION:
                found[series(sample.name, sample.labels)] = sample.value
    return found


def check_histograms(page: list[Metric]) -> None:
    """Buckets never fall, the last one is the count, and no sum is below nothing or above what its buckets allow."""
    for family in page:
        if family.type != "histogram":
            continue
        buckets: dict[str, list[tuple[float, float]]] = {}
        told: dict[str, dict[str, float]] = {}
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "le"}
            if sample.name.endswith("_bucket"):
                buckets.setdefault(series("", labels), []).append((float(sample.labels["le"]), sample.value))
            else:
                told.setdefault(series("", labels), {})[sample.name.rpartition("_")[2]] = sample.value
        assert set(buckets) == set(told), family.name
        for labels_, steps in buckets.items():
            counts = [count for _, count in steps]
            assert [bound for bound, _ in steps] == sorted(bound for bound, _ in steps), family.name
            assert counts == sorted(counts), (family.name, labels_, counts)
            assert steps[-1] == (float("inf"), told[labels_]["count"]), (family.name, labels_)
            below = zip([0.0, *counts], counts, [0.0, *(bound for bound, _ in steps)], strict=False)
            least = sum((now - before) * bound for before, now, bound in below)
            assert told[labels_]["sum"] >= least, (family.name, labels_)


class Books:
    """What has been counted since this was made."""

    def __init__(self, gate: Gateway) -> None:
        self._gate = gate
        self._before = counted(self._page())

    def _page(self) -> list[Metric]:
        page = families(self._gate.get("/metrics").text)
        check_histograms(page)
        return page

    def grown(self) -> Grown:
        """What has grown, by how much; sums of seconds left out."""
        now = counted(self._page())
        assert set(now) >= set(self._before), "a series is gone"
        grown = {name: value - self._before.get(name, 0.0) for name, value in now.items()}
        assert all(by >= 0 for by in grown.values()), grown
        return {name: by for name, by in grown.items() if by and "_seconds_sum" not in name}

    def until(self, *expected: Grown) -> None:
        """Until exactly this has been counted, all together."""
        total: Grown = {}
        for part in expected:
            for name, by in part.items():
                total[name] = total.get(name, 0.0) + by
        last: list[Grown] = [{}]

        def look() -> bool:
            last[0] = self.grown()
            return last[0] == total

        try:
            wait_until(look, "the books", within_s=5.0)
        except AssertionError:
            assert last[0] == total  # shows what differs


def request(
    status: int,
    reason: str,
    *,
    route: str = CHAT,
    model: str = MODEL,
    key: str = "anonymous",
    tries: Mapping[str, int] | None = None,
    waits: Mapping[str, int] | None = None,
    batches: tuple[int, ...] = (),
    refused: bool = False,
    left: str | None = None,
    answered: bool = False,
    events: int = 0,
    tokens: Mapping[str, int] | None = None,
    slo: str | None = None,
) -> Grown:
    """What one request adds to the books.

    Args:
        tries: tries at e0 by outcome; ``waits`` waits in the line by theirs; ``batches`` the sequences of each call.
        refused: whether the gateway refused it; ``left``: the stage at which its client left.
        answered: whether its time is in the latencies.
        events: those of its stream, usage and end not counted.
        tokens: by kind.
    """
    grown: Grown = {}

    def add(name: str, by: float = 1.0, **labels: str) -> None:
        if by:
            grown[series(name, labels)] = by

    add("api_requests_total", route=route, model=model, key=key, status=str(status), reason=reason)
    for outcome, count in (tries or {}).items():
        add("api_engine_requests_total", count, engine="e0", outcome=outcome)
    for outcome, count in (waits or {}).items():
        add("api_queue_wait_seconds_count", count, outcome=outcome)
    add("api_batch_size_count", len(batches))
    add("api_batch_size_sum", sum(batches))
    if refused:
        add("api_refusals_total", reason=reason, priority="normal", model=model, key=key)
    if left:
        add("api_cancelled_total", stage=left)
    if answered:
        add("api_request_latency_seconds_count", route=route, model=model)
    if events:
        add("api_time_to_first_token_seconds_count", model=model)
        add("api_inter_token_latency_seconds_count", events - 1, model=model)
    for kind, count in (tokens or {}).items():
        add("api_tokens_total", count, kind=kind, model=model, key=key)
    if slo:
        add("api_slo_requests_total", model=model, result=slo)
    return grown


def gauges(gate: Gateway) -> dict[str, float]:
    """Our gauges, by series; without the loop's lateness, which is what it is."""
    return {
        series(sample.name, sample.labels): sample.value
        for family in families(gate.get("/metrics").text)
        if family.type == "gauge" and family.name.startswith("api_") and family.name != "api_event_loop_lag_seconds"
        for sample in family.samples
    }


def as_told(content: Any) -> dict[str, float]:
    """The samples of the JSON page, by series."""
    told = json.loads(content)
    return {
        series(sample["name"], sample["labels"]): sample["value"]
        for family in told.values()
        for sample in family["samples"]
    }
