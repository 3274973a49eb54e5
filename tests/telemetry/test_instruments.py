"""The instruments count as Prometheus' own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headgate.telemetry import instruments
from headgate.telemetry.metrics import Metrics, as_json, gauge

BOUNDS = (0.1, 1, 10)


class Of(Collector):
    """What a registry asks for its families."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return list(self._families)


def text(*families: Metric) -> str:
    registry = CollectorRegistry()
    registry.register(Of(*families))
    return generate_latest(registry).decode()


@given(values=st.lists(st.one_of(st.floats(0, 100), st.sampled_from([0.1, 1.0, 10.0]))))
def test_histogram_says_what_the_librarys_own_says(values: list[float]) -> None:
    ours = instruments.Histogram("h", "Help.", BOUNDS, ("model",))
    registry = CollectorRegistry()
    theirs = Histogram("h", "Help.", ("model",), buckets=BOUNDS, registry=registry)
    for value in values:
        ours.at(("m",)).observe(value)
        theirs.labels("m").observe(value)
    expected = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    if values:
        assert text(ours.family()).splitlines() == expected


def test_spread_that_has_counted_nothing_is_not_there() -> None:
    """Each request takes one when it comes, and `other`, of which no stream can come, had a count of 0 for ever."""
    ours = instruments.Histogram("h", "Help.", BOUNDS, ("model",))
    ours.at(("other",))
    assert "h_count" not in text(ours.family())
    ours.at(("other",)).observe(1)
    assert 'h_count{model="other"} 1.0' in text(ours.family())
    assert "h_count 0.0" in text(instruments.Histogram("h", "Help.", BOUNDS).family()), "one without labels is"


def test_value_on_a_bound_is_within_it() -> None:
    spread = instruments.Spread(BOUNDS)
    spread.observe(1)
    assert list(spread.cumulative()) == [("0.1", 0), ("1.0", 1), ("10.0", 1), ("+Inf", 1)]


def test_counter_without_labels_is_there_from_the_beginning() -> None:
    assert "c_total 0.0" in text(instruments.Counter("c", "Help.").family())
    assert "c_total{" not in text(instruments.Counter("c", "Help.", ("a",)).family())


def test_counter_counts_by_labels() -> None:
    counter = instruments.Counter("c", "Help.", ("a",))
    counter.add(("x",))
    counter.add(("x",), 2.5)
    counter.add(('quo"te\n',))
    page = text(counter.family())
    assert 'c_total{a="x"} 3.5' in page
    assert 'c_total{a="quo\\"te\\n"} 1.0' in page


def test_json_says_the_same_as_text() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [gauge("api_now", "Now.", 7)])
    metrics.requests.add(("/r", "m", "k", "200", "ok"))
    told = as_json(metrics.registry.collect())
    assert told["api_now"] == {
        "type": "gauge",
        "help": "Now.",
        "samples": [{"name": "api_now", "labels": {}, "value": 7}],
    }
    requests = told["api_requests"]
    assert isinstance(requests, dict)
    assert requests["samples"][0]["labels"] == {
        "route": "/r",
        "model": "m",
        "key": "k",
        "status": "200",
        "reason": "ok",
    }
    page = generate_latest(metrics.registry).decode()
    assert 'api_requests_total{key="k",model="m",reason="ok",route="/r",status="200"} 1.0' in page
    assert set(told) >= {instrument.name for instrument in metrics.instruments}
