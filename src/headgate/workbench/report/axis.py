"""Axes: which part of the numbers is shown, where the marks are, how they are written. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

_MOST_TICKS = 7
_LOG_FROM = 20.0
"""Values that differ by more than this factor get a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of numbers.

    Attributes:
        unit: what is written after the label; values are divided by ``per`` first (0.001 shows seconds as ms).
    """

    low: float
    high: float
    label: str
    log: bool = False
    per: float = 1.0
    unit: str = ""

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what is outside lies at the edge."""
        if self.log:
            part = log10(max(value, self.low) / self.low) / log10(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, part))

    def ticks(self) -> list[tuple[float, str]]:
        """Marks, each with its text."""
        low, high = self.low / self.per, self.high / self.per
        marks = _log_marks(low, high) if self.log else _marks(low, high)
        return [(mark * self.per, written(mark)) for mark in marks]

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def seconds(values: Iterable[float], label: str, *, may_log: bool = True) -> Axis:
    """An axis for times, in ms or s as fits, logarithmic where they differ much."""
    found = [value for value in values if isfinite(value) and value >= 0]
    high = max(found, default=1.0) or 0.001
    low = min((value for value in found if value > 0), default=high)
    per, unit = (1.0, "s") if high >= 1 else (0.001, "ms")
    if may_log and high / low > _LOG_FROM:
        return Axis(max(low, high / 1e5) / 1.1, high * 1.1, label, log=True, per=per, unit=unit)
    return Axis(0.0, high * 1.05, label, per=per, unit=unit)


def counted(values: Iterable[float], label: str, unit: str = "") -> Axis:
    """An axis from 0 for rates and counts."""
    high = max((value for value in values if isfinite(value)), default=1.0)
    return Axis(0.0, high * 1.05 if high > 0 else 1.0, label, unit=unit)


def percent(label: str) -> Axis:
    """An axis from 0 to 100 % for shares from 0 to 1."""
    return Axis(0.0, 1.0, label, per=0.01, unit="%")


def written(number: float) -> str:
    """A mark as a person writes it: ``0.05``, ``2``, ``1,200``."""
    if number == 0:
        return "0"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.10f}".rstrip("0").rstrip(".") if abs(number) >= 1e-4 else f"{number:.0e}"


def _marks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** floor(log10(raw))
    step = next(step for step in (1, 2, 5, 10) if step * power >= raw * (1 - 1e-9)) * power
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _log_marks(low: float, high: float) -> list[float]:
    """Powers of ten, with their 2 and 5 where there is room."""
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        marks = [round(d * 10.0**e, 12) for e in exponents for d in digits if low <= d * 10.0**e <= high]
        if len(marks) <= _MOST_TICKS + 1:
            break
    return marks
