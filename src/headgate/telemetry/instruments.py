"""Counters and histograms that cost a dictionary look-up, written out by ``prometheus_client``.

Its own instruments take a lock and build label objects at each call, 1 to 3 µs each, and there are a dozen to a
request and one to an event. The gateway counts on one thread, so plain numbers will do; the exposition formats stay
the library's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily, Metric

Labels = tuple[str, ...]


class Counter:
    """A counter by labels. ``name`` is without ``_total``, which the exposition adds."""

    def __init__(self, name: str, help_: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help_
        self.labels = tuple(labels)
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


Example = tuple[str, str, float, float]
"""One request that a bucket counted last: the name and the value of its label (``trace_id`` or ``request``, and the id;
never a caller's string), what was observed, and when, in Unix time. A plain tuple: one is made for each request."""


class Spread:
    """The counts of one histogram: ``observe`` is all that the road does with it."""

    __slots__ = ("_bounds", "counts", "examples", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.examples: dict[int, Example] = {}

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe_example(self, value: float, name: str, id_: str, at: float) -> None:
        """As ``observe``, and the value's bucket remembers which request it was."""
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += 1
        self.total += value
        self.examples[bucket] = name, id_, value, at

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Pairs of upper bound and count up to it, ``+Inf`` last."""
        running = 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            running += count
            yield ("+Inf" if bound == float("inf") else str(float(bound)), float(running))

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """As ``cumulative``, each with its example where it has one."""
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = list(self.cumulative())
        for bucket, (name, id_, value, at) in self.examples.items():
            buckets[bucket] = (*buckets[bucket][:2], Exemplar({name: id_}, value, at))
        return buckets


class Histogram:
    """Spreads by labels."""

    def __init__(self, name: str, help_: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help_
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self.spreads: dict[Labels, Spread] = {} if labels else {(): Spread(self.bounds)}

    def at(self, labels: Labels = ()) -> Spread:
        """The spread for ``labels``: keep it where many values follow."""
        spread = self.spreads.get(labels)
        if spread is None:
            spread = self.spreads[labels] = Spread(self.bounds)
        return spread

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, spread in self.spreads.items():
            if self.labels and not any(spread.counts):
                continue  # it was only made ready for what may come: a model that nobody can ask for, say
            family.add_metric(labels, buckets=spread.buckets(), sum_value=spread.total)
        return family
