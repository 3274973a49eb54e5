"""From a raw file to figures: one number for each round, then their median and range.

Ratios are taken within a round, where both targets ran one after the other, and the median of those is the
figure: what slows the whole machine for a while falls out of it.

Only arithmetic on the raw file; no bar is known here, and nothing is printed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.overhead.phases import PHASES

Round = Mapping[str, Any]
Measure = Callable[[Round], float | None]

PER = {phase: "completed" if phase in ("whole", "ttft", "open") else "events" for phase in PHASES}


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, and the least and the most of them."""

    middle: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Figure | None":
        return cls(median(values), min(values), max(values), len(values)) if values else None


class Figures:
    """The rounds of one raw file by target and number."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._rounds: dict[str, dict[int, Round]] = {}
        for seen in raw["rounds"]:
            self._rounds.setdefault(seen["target"], {})[seen["round"]] = seen

    @property
    def targets(self) -> list[str]:
        return list(self._rounds)

    def values(self, target: str, measure: Measure) -> list[float]:
        found = (measure(seen) for seen in self._rounds.get(target, {}).values())
        return [value for value in found if value is not None]

    def figure(self, target: str, measure: Measure) -> Figure | None:
        return Figure.of(self.values(target, measure))

    def ratio(self, target: str, to: str, measure: Measure) -> Figure | None:
        return self._paired(target, to, measure, lambda mine, theirs: mine / theirs if theirs else None)

    def added(self, target: str, to: str, measure: Measure) -> Figure | None:
        return self._paired(target, to, measure, lambda mine, theirs: mine - theirs)

    def errors(self, target: str) -> dict[str, int]:
        """By kind, with the phase before it."""
        found: dict[str, int] = {}
        for seen in self._rounds.get(target, {}).values():
            for phase, what in seen["phases"].items():
                for kind, count in what["errors"].items():
                    found[f"{phase}: {kind}"] = found.get(f"{phase}: {kind}", 0) + count
        return found

    def _paired(
        self, target: str, to: str, measure: Measure, join: Callable[[float, float], float | None]
    ) -> Figure | None:
        joined = []
        for number, seen in self._rounds.get(target, {}).items():
            other = self._rounds.get(to, {}).get(number)
            mine, theirs = measure(seen), measure(other) if other else None
            value = join(mine, theirs) if mine is not None and theirs is not None else None
            if value is not None:
                joined.append(value)
        return Figure.of(joined)


def cpu_us(phase: str) -> Measure:
    """The gateway's CPU for each event, or each request, of this phase."""

    def measure(seen: Round) -> float | None:
        what = seen["phases"].get(phase)
        return float(what["cpu_ns"]) / 1000 / what[PER[phase]] if what and what[PER[phase]] else None

    return measure


def time_ms(phase: str, what: str, rank: str) -> Measure:
    """`what`: `ttft_ms`, `latency_ms` or `event_delay_ms`; `rank`: `p50`, `p90`, `p99`, `max`."""

    def measure(seen: Round) -> float | None:
        spread = seen["phases"].get(phase, {}).get(what)
        return None if spread is None else float(spread[rank])

    return measure


def rate(phase: str) -> Measure:
    """Events or requests per second."""

    def measure(seen: Round) -> float | None:
        what = seen["phases"].get(phase)
        return what[PER[phase]] / what["wall_s"] if what and what["wall_s"] else None

    return measure


def share(phase: str, whose: str) -> Measure:
    """Of one core, in percent; `whose`: `cpu_ns`, `engine_cpu_ns`, `client_cpu_ns`, `others_cpu_ns`."""

    def measure(seen: Round) -> float | None:
        what = seen["phases"].get(phase)
        return 100 * what[whose] / what["window_ns"] if what else None

    return measure


def phase_peak_mb(phase: str) -> Measure:
    """The most memory that the gateway has held since its start, at the end of this phase."""

    def measure(seen: Round) -> float | None:
        what = seen["phases"].get(phase)
        return what["peak_rss_bytes"] / 1e6 if what and "peak_rss_bytes" in what else None

    return measure


def start_s(seen: Round) -> float | None:
    return float(seen["start_s"])


def peak_mb(seen: Round) -> float | None:
    return float(seen["peak_rss_bytes"]) / 1e6
