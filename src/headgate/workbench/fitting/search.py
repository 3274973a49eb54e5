"""The constants whose play of some loads is nearest to what was seen. Pure.

Levenberg and Marquardt's least squares on the logarithms of the figures, so that a tenth too much weighs the same
wherever it is; no constant below nothing. A figure that is off by more than ``_TRUSTED`` weighs no more for being
farther off (Huber), so that one stall in one run doesn't bend all the others. Derivatives are differences of plays.
Plain Python: five unknowns and some dozens of figures need no library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

from headgate.simulator.constants import Constants, Limits
from headgate.workbench.fitting.play import Figures, Load, play

FITTED = ("base_s", "per_sequence_s", "per_prefill_token_s", "per_context_token_s", "latency_s")

_WEIGHTS = {"tokens_per_s": 2.0, "ttft_p50": 1.0, "ttft_mean": 1.0, "gap_p50": 1.0, "gap_mean": 1.0}
"""What is fitted. The 95th percentiles are left to be foretold: they are shown, and weigh nothing."""

_TRUSTED = 0.15
_ROUNDS = 25
_DIFFERENCE = 0.04
_UNTOLD = 0.02
"""A constant whose doubling moves every figure by less than this part was not measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A load, and what a real engine made of it."""

    name: str
    load: Load
    real: Figures


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search.

    Attributes:
        untold: constants that the samples say nothing about.
    """

    constants: Constants
    played: list[Figures]
    untold: list[str]


def search(
    samples: Sequence[Sample],
    limits: Limits,
    like: Constants | None = None,
    tell: Callable[[int, float], None] = lambda round_, off: None,
) -> Found:
    """Fit the constants.

    Args:
        like: where the other durations (loading, sleeping) come from.
        tell: hears each round's number and how far off it is in the root mean square.

    Raises ValueError where the samples can't tell how a step's time depends on the batch or on prompts.
    """
    _check(samples)
    scales = _scales(samples)
    others = like or Constants()

    def made(x: Sequence[float]) -> Constants:
        return replace(others, **{name: max(0.0, v) * scales[name] for name, v in zip(FITTED, x, strict=True)})

    def off(x: Sequence[float]) -> list[float]:
        return _off(samples, [play(made(x), limits, sample.load) for sample in samples])

    x = [1.0] * len(FITTED)
    residuals = off(x)
    damping = 0.1
    for round_ in range(_ROUNDS):
        tell(round_, sqrt(sum(r * r for r in residuals) / len(residuals)))
        columns = [_column(off, x, i, residuals) for i in range(len(x))]
        better = False
        while not better and damping < 1e4:
            step = _step(columns, residuals, x, damping)
            tried = [max(0.0, min(50.0, a + b)) for a, b in zip(x, step, strict=True)]
            after = off(tried)
            better = _cost(after) < _cost(residuals)
            damping = damping / 4 if better else damping * 4
        if not better:
            break
        gain = 1 - _cost(after) / _cost(residuals)
        x, residuals = tried, after
        if gain < 1e-3:
            break
    constants = made(x)
    columns = [_column(off, x, i, residuals) for i in range(len(x))]
    untold = [
        name
        for name, value, column in zip(FITTED, x, columns, strict=True)
        if max(abs(c) for c in column) * max(value, _DIFFERENCE) < _UNTOLD
    ]
    return Found(constants, [play(constants, limits, sample.load) for sample in samples], untold)


def _check(samples: Sequence[Sample]) -> None:
    busy = {round(log(max(1.0, s.real.tokens_per_s * s.real.gap_mean)), 1) for s in samples}
    prompts = sorted(sum(ask[1] for ask in s.load.asks) / len(s.load.asks) for s in samples)
    if not samples or max(busy) - min(busy) < log(2):
        raise ValueError("all of it was measured with about as many at once: vary --users (1, 4, 16, say)")
    if prompts[-1] < 2 * prompts[0]:
        raise ValueError("all prompts are about as long: vary --input (100 and 800, say)")


def _scales(samples: Sequence[Sample]) -> dict[str, float]:
    """Sizes to begin with: the quickest step, a part of it for each sequence, a prompt's own time for its tokens."""
    step_s = min(sample.real.gap_p50 for sample in samples)
    prompt = max(sum(ask[1] for ask in s.load.asks) / len(s.load.asks) for s in samples)
    first_s = min(sample.real.ttft_p50 for sample in samples)
    longest_s = max(sample.real.ttft_p50 for sample in samples)
    return {
        "base_s": step_s,
        "per_sequence_s": step_s / 20,
        "per_prefill_token_s": max(longest_s - first_s, first_s) / prompt / 4,
        "per_context_token_s": step_s / 100 / prompt,
        "latency_s": first_s / 4,
    }


def _off(samples: Sequence[Sample], played: Sequence[Figures]) -> list[float]:
    return [
        sqrt(weight) * log(getattr(figures, name) / getattr(sample.real, name))
        for sample, figures in zip(samples, played, strict=True)
        for name, weight in _WEIGHTS.items()
    ]


def _cost(residuals: Sequence[float]) -> float:
    return sum(r * r / 2 if abs(r) <= _TRUSTED else _TRUSTED * (abs(r) - _TRUSTED / 2) for r in residuals)


def _column(
    off: Callable[[Sequence[float]], list[float]], x: Sequence[float], i: int, residuals: Sequence[float]
) -> list[float]:
    width = max(x[i], 0.5) * _DIFFERENCE
    moved = [value + width if j == i else value for j, value in enumerate(x)]
    return [(a - b) / width for a, b in zip(off(moved), residuals, strict=True)]


def _step(
    columns: Sequence[Sequence[float]], residuals: Sequence[float], x: Sequence[float], damping: float
) -> list[float]:
    """The damped step; a constant that is at nothing and would go below stays where it is."""
    weights = [min(1.0, _TRUSTED / max(abs(r), 1e-12)) for r in residuals]
    free = list(range(len(columns)))
    while free:
        table = [
            [sum(w * a * b for w, a, b in zip(weights, columns[i], columns[j], strict=True)) for j in free]
            + [-sum(w * a * r for w, a, r in zip(weights, columns[i], residuals, strict=True))]
            for i in free
        ]
        for k in range(len(free)):
            table[k][k] += damping * table[k][k] + 1e-9
        solved = _solve(table)
        held = [i for i, s in zip(free, solved, strict=True) if x[i] <= 0 and s < 0]
        if not held:
            found = dict(zip(free, solved, strict=True))
            return [found.get(i, 0.0) for i in range(len(columns))]
        free = [i for i in free if i not in held]
    return [0.0] * len(columns)


def _solve(table: list[list[float]]) -> list[float]:
    """Gauss and Jordan; the damping keeps the pivots from being nothing."""
    size = len(table)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(table[row][column]))
        table[column], table[pivot] = table[pivot], table[column]
        head = table[column]
        for row in range(size):
            if row != column:
                factor = table[row][column] / head[column]
                table[row] = [a - factor * b for a, b in zip(table[row], head, strict=True)]
    return [table[i][size] / table[i][i] for i in range(size)]
