"""Every instrument, in one list. Names and labels are the contract of docs/api.md.

What is a state (slots held, the line, engines) is read from its owner at the scrape, never counted up and down here.
Labels are bounded: nothing that a caller sends becomes one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from headgate.telemetry.instruments import Counter, Histogram, Labels

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_WAITS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)

OTHER = "other"
"""The label of a route or a model that isn't ours."""


class Metrics(Collector):
    """The gateway's own instruments. The road adds to the attributes; a scrape collects them all."""

    def __init__(self) -> None:
        self.requests = Counter(
            "api_requests",
            "Requests ended, by route, model, key, HTTP status and reason (ok, client_left, or a refusal's).",
            ("route", "model", "key", "status", "reason"),
        )
        self.latency = Histogram(
            "api_request_latency_seconds",
            "From a generation's arrival to the end of its answer, waiting included; not of refusals, errors in place "
            "of an answer, and clients that left.",
            _SECONDS,
            ("route", "model"),
        )
        self.queue_wait = Histogram(
            "api_queue_wait_seconds",
            "From arrival at the line to a slot, or to the refusal or the leaving that ended the wait; a second try "
            "waits a second time, and what a key at its cap waited for its own doesn't count.",
            _WAITS,
            ("outcome",),
        )
        self.prediction_error = Histogram(
            "api_wait_prediction_error_seconds",
            "Of those who waited and got a slot: how far the wait was off what was forecast when they came.",
            _WAITS,
            ("direction",),
        )
        self.ttft = Histogram(
            "api_time_to_first_token_seconds",
            "From a streamed generation's arrival to its first event, waiting included.",
            _SECONDS,
            ("model",),
        )
        self.inter_token = Histogram(
            "api_inter_token_latency_seconds",
            "Between two events of a stream, as they pass.",
            _GAPS,
            ("model",),
        )
        self.tokens = Counter(
            "api_tokens",
            "Tokens of ended generations by kind: prompt, completion, or completion_estimated (counted from events).",
            ("kind", "model", "key"),
        )
        self.refusals = Counter(
            "api_refusals",
            "Generation requests refused by the gateway, and connections of which there were too many.",
            ("reason", "priority", "model", "key"),
        )
        self.cancelled = Counter(
            "api_cancelled", "Clients that left, by stage: arriving, queued, waiting_first, streaming.", ("stage",)
        )
        self.returns = Counter(
            "api_returns",
            "Requests that came back when Retry-After had said so, by outcome: granted, refused.",
            ("outcome",),
        )
        self.engine_requests = Counter(
            "api_engine_requests", "Tries at an engine, each by its one outcome.", ("engine", "outcome")
        )
        self.slo = Counter(
            "api_slo_requests",
            "Ended generations that were the gateway's to serve, by result: met, or the first objective missed.",
            ("model", "result"),
        )
        self.batch_size = Histogram(
            "api_batch_size", "Sequences in one engine call: n times the number of prompts.", _SEQUENCES
        )
        self.instruments: tuple[Counter | Histogram, ...] = (
            self.requests,
            self.latency,
            self.queue_wait,
            self.prediction_error,
            self.ttft,
            self.inter_token,
            self.tokens,
            self.refusals,
            self.cancelled,
            self.returns,
            self.engine_requests,
            self.slo,
            self.batch_size,
        )
        self.before_collecting: Callable[[], object] = lambda: None
        """Called at each scrape, so that what is gathered elsewhere is in it."""
        self._states: list[Callable[[], Iterable[Metric]]] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def watch(self, states: Callable[[], Iterable[Metric]]) -> None:
        """At each scrape, add what ``states`` gives: gauges read from their owners."""
        self._states.append(states)

    def collect(self) -> Iterator[Metric]:
        self.before_collecting()
        for instrument in self.instruments:
            yield instrument.family()
        for states in self._states:
            yield from states()


def gauge(name: str, help_: str, value: float) -> Metric:
    """A gauge with no labels."""
    return GaugeMetricFamily(name, help_, value=value)


def gauges(name: str, help_: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> Metric:
    """A gauge by labels."""
    family = GaugeMetricFamily(name, help_, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def counters(name: str, help_: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> Metric:
    """A counter kept by its owner; ``name`` without ``_total``."""
    family = CounterMetricFamily(name, help_, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def as_json(metrics: Iterable[Metric]) -> dict[str, object]:
    """The same figures as JSON: a name to its type and samples; a histogram as count, sum and buckets."""
    out: dict[str, object] = {}
    for metric in metrics:
        samples: list[dict[str, object]] = [
            {"name": sample.name, "labels": sample.labels, "value": sample.value} for sample in metric.samples
        ]
        out[metric.name] = {"type": metric.type, "help": metric.documentation, "samples": samples}
    return out


def process_times() -> dict[str, float]:
    """What ``/status`` shows of the gateway itself: CPU seconds, resident bytes."""
    times = os.times()
    resident = 0
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass  # not Linux: the figure is left out as 0
    return {
        "cpu_s": round(times.user + times.system, 3),
        "resident_bytes": resident,
    }
