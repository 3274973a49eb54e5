"""What the rounds of a comparison come to: for each target and load the median of the rounds, and their range. Pure.

A median of rounds, because one bad minute must not decide; and the range with it, because where two ranges overlap the
run did not tell the two apart. From raw runs alone, so that ``report`` comes to the same from files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from headgate.workbench.bench.figures import Spread, median
from headgate.workbench.bench.raw import Objective, Run
from headgate.workbench.bench.summary import Summary, summarize, what


class Figure(msgspec.Struct, frozen=True):
    """A figure over the rounds; None where no round had it."""

    median: float | None
    least: float | None
    most: float | None

    def in_words(self, words: Callable[[float], str]) -> tuple[str, str]:
        """The median, and the range as ``636–720 ms``: empty where there is none to speak of."""
        if self.median is None or self.least is None or self.most is None:
            return "–", ""
        least, most = words(self.least), words(self.most)
        if least == most:
            return words(self.median), ""
        number, _, unit = least.partition(" ")
        return words(self.median), f"{number if unit and most.endswith(f' {unit}') else least}–{most}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One target under one load. Times in seconds, rates in 1/s, shares from 0 to 1."""

    target: str
    load: str
    rounds: int
    met: int
    offered_per_s: Figure
    answered_per_s: Figure
    goodput_per_s: Figure
    goodput: Figure
    latency_p50_s: Figure
    latency_p95_s: Figure
    ttft_p50_s: Figure
    ttft_p95_s: Figure
    inter_token_p95_s: Figure
    tokens_per_s: Figure
    refused: Figure
    errors: Figure
    jain_tokens: Figure
    sources: list[str]


@dataclass(frozen=True, slots=True)
class Judged:
    """A run and what it comes to; ``load`` is what its load is called among all that are looked at."""

    run: Run
    summary: Summary
    load: str

    @property
    def target(self) -> str:
        """Its name in the comparison, or else its address and model."""
        place, target = self.run.header.place, self.run.header.target
        return place.target if place is not None else f"{target.url} {target.model}"


def judged(runs: Iterable[Run], objectives: Sequence[Objective] | None = None) -> list[Judged]:
    """Every run with its figures. Loads of one rate, or so many users, that asked for different things are two."""
    found = [(run, summarize(run, objectives)) for run in runs]
    asked: dict[str, set[str]] = {}
    for run, summary in found:
        asked.setdefault(summary.load, set()).add(what(run.header))
    return [
        Judged(run, summary, f"{summary.load}; {what(run.header)}" if len(asked[summary.load]) > 1 else summary.load)
        for run, summary in found
    ]


def rows(of: Sequence[Judged]) -> list[Row]:
    """One for each load and target, in the order in which they first come."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in of:
        groups.setdefault((one.load, one.target), []).append(one)
    loads = list(dict.fromkeys(load for load, _ in groups))
    targets = list(dict.fromkeys(one.target for one in of))
    return [_row(groups[load, target]) for load in loads for target in targets if (load, target) in groups]


def _row(group: Sequence[Judged]) -> Row:
    summaries = [one.summary for one in group]

    def figure(of: Callable[[Summary], float | None]) -> Figure:
        values = [value for value in map(of, summaries) if value is not None]
        return Figure(median(values), min(values, default=None), max(values, default=None))

    def at(which: Callable[[Summary], Spread | None], rank: str) -> Figure:
        return figure(lambda summary: spread.at(rank) if (spread := which(summary)) is not None else None)

    def share(of: Callable[[Summary], int]) -> Figure:
        return figure(lambda summary: of(summary) / summary.requests if summary.requests else None)

    return Row(
        target=group[0].target,
        load=group[0].load,
        rounds=len(group),
        met=sum(summary.met for summary in summaries),
        offered_per_s=figure(lambda s: s.offered_per_s),
        answered_per_s=figure(lambda s: s.answered_per_s),
        goodput_per_s=figure(lambda s: s.goodput_per_s),
        goodput=figure(lambda s: s.goodput),
        latency_p50_s=at(lambda s: s.latency, "p50"),
        latency_p95_s=at(lambda s: s.latency, "p95"),
        ttft_p50_s=at(lambda s: s.ttft, "p50"),
        ttft_p95_s=at(lambda s: s.ttft, "p95"),
        inter_token_p95_s=at(lambda s: s.inter_token, "p95"),
        tokens_per_s=figure(lambda s: s.tokens_per_s),
        refused=share(lambda s: s.refused),
        errors=share(lambda s: s.errors),
        jain_tokens=figure(lambda s: s.jain_tokens),
        sources=[one.run.source for one in group],
    )
