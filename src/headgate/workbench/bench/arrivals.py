"""When requests are due, in an open loop: times from the start of the load. Pure: chance is handed in.

A shape is a rate over time, straight within each of its pieces. The expected number of arrivals up to a time is the
area under it, and an arrival is due where that area reaches the next mark: marks 1 apart give an even load, marks at
exponential distances give a Poisson process of just that rate (time rescaling). Nothing here knows whether an answer
has come: that is what makes the loop open.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from math import sqrt

MAX_RATE = 100_000.0

TAKES = "10, ramp:1-20, step:5,10,20 or spike:5,50 (requests per second)"

_SPIKE = (0.4, 0.6)
"""The spike is the middle fifth of the load."""


class BadShape(ValueError):
    """A text that is no shape."""


@dataclass(frozen=True, slots=True)
class Piece:
    """So long, from one rate to another."""

    length_s: float
    from_rate: float
    to_rate: float

    @property
    def expected(self) -> float:
        """Arrivals in it."""
        return self.length_s * (self.from_rate + self.to_rate) / 2

    def when(self, area: float) -> float:
        """The time within the piece at which so many arrivals are expected; ``area`` is at most ``expected``."""
        slope = (self.to_rate - self.from_rate) / self.length_s
        # The root of from·t + slope·t²/2 = area, in the form that loses no digits where slope is near 0.
        under = max(0.0, self.from_rate**2 + 2 * slope * area)
        below = self.from_rate + sqrt(under)
        return min(self.length_s, 2 * area / below) if below > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A rate over time."""

    pieces: tuple[Piece, ...]

    @property
    def length_s(self) -> float:
        """The whole of it."""
        return sum(piece.length_s for piece in self.pieces)

    @property
    def expected(self) -> float:
        """Arrivals in all."""
        return sum(piece.expected for piece in self.pieces)

    @property
    def mean_rate(self) -> float:
        """Requests per second over all of it."""
        return self.expected / self.length_s

    def rate_at(self, at_s: float) -> float:
        """Requests per second at a time; 0 after the end."""
        for piece in self.pieces:
            if at_s < piece.length_s:
                return piece.from_rate + (piece.to_rate - piece.from_rate) * at_s / piece.length_s
            at_s -= piece.length_s
        return 0.0


def shape(text: str, length_s: float) -> Shape:
    """A shape as it is given on a command line.

    Raises:
        BadShape: one line that says what is taken.
    """
    kind, _, given = text.strip().rpartition(":")
    try:
        rates = [float(part) for part in re.split(r"[-,]" if kind == "ramp" else ",", given)]
    except ValueError:
        rates = []
    fits = {"": len(rates) == 1, "ramp": len(rates) == 2, "step": len(rates) >= 1, "spike": len(rates) == 2}
    if not fits.get(kind, False) or not all(0 <= rate <= MAX_RATE for rate in rates) or not any(rates):
        raise BadShape(f"{text!r} is no rate. It takes {TAKES}.")
    if kind == "ramp":
        return Shape((Piece(length_s, rates[0], rates[1]),))
    if kind == "spike":
        base, peak = rates
        before, until = (length_s * part for part in _SPIKE)
        parts = ((before, base), (until - before, peak), (length_s - until, base))
        return Shape(tuple(Piece(long, rate, rate) for long, rate in parts))
    return Shape(tuple(Piece(length_s / len(rates), rate, rate) for rate in rates))


def even() -> Iterator[float]:
    """Marks for an even load: the first at once, then 1 apart."""
    yield 0.0
    yield from repeat(1.0)


def poisson(dice: random.Random) -> Iterator[float]:
    """Distances of the marks of a Poisson process."""
    while True:
        yield dice.expovariate(1.0)


def times(shape: Shape, distances: Iterator[float]) -> Iterator[float]:
    """When each request is due, in order, all of them before the shape's end."""
    mark = next(distances)
    start_s = passed = 0.0
    for piece in shape.pieces:
        while mark < passed + piece.expected:
            yield start_s + piece.when(mark - passed)
            mark += next(distances)
        passed += piece.expected
        start_s += piece.length_s
