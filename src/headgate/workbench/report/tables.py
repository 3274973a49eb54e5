"""The tables of a report, as rows of text: HTML and Markdown show the same. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headgate.workbench.bench.raw import Run
from headgate.workbench.bench.summary import what
from headgate.workbench.bench.tables import label_of, obeyed, value
from headgate.workbench.compare.medians import Figure, Judged, Row
from headgate.workbench.top.words import rate, span


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first ``texts`` columns are words, the others numbers."""

    title: str
    says: str
    header: list[str]
    rows: list[list[str]]
    sources: list[str]
    texts: int = 1


def results(rows: Sequence[Row]) -> list[Table]:
    """Each target, a table for each load."""
    loads = list(dict.fromkeys(row.load for row in rows))
    return [_results([row for row in rows if row.load == load], f"Results, {load}") for load in loads]


def _results(rows: Sequence[Row], title: str) -> Table:
    several = any(row.rounds > 1 for row in rows)
    says = "Median of the rounds (least–most). Where two ranges overlap, they were not told apart. " if several else ""
    says += "Times count from the moment a request was due."
    header = ["target", "SLO met", "offered/s", "answered/s", "goodput/s", "p50", "p95", "TTFT p50", "TTFT p95"]
    header += ["inter-token p95", "tokens/s", "refused", "errors"]
    body = [
        [
            row.target,
            f"{row.met} of {row.rounds}" if several else ("yes" if row.met else "no"),
            cell(row.offered_per_s, rate),
            cell(row.answered_per_s, rate),
            cell(row.goodput_per_s, rate),
            cell(row.latency_p50_s, span),
            cell(row.latency_p95_s, span),
            cell(row.ttft_p50_s, span),
            cell(row.ttft_p95_s, span),
            cell(row.inter_token_p95_s, span),
            cell(row.tokens_per_s, rate),
            cell(row.refused, _percent),
            cell(row.errors, _percent),
        ]
        for row in rows
    ]
    return Table(title, says, header, body, [source for row in rows for source in row.sources], texts=2)


def objectives(of: Sequence[Judged]) -> Table:
    """Each run against each objective."""
    rows = [
        [
            one.target,
            one.load,
            str(_round(one)),
            label_of(judged),
            value(judged.name, judged.seen),
            f"{'≥' if judged.at_least else '≤'} {value(judged.name, judged.bound)}",
            "met" if judged.met else "not measured" if judged.met is None else "MISSED",
        ]
        for one in of
        for judged in one.summary.objectives
    ]
    header = ["target", "load", "round", "objective", "seen", "bound", "verdict"]
    says = "A refusal counts as an error, unless refusals have a bound of their own."
    return Table("Verdict", says, header, rows, _sources(of), texts=4)


def callers(of: Sequence[Judged]) -> Table | None:
    """Who got what, where more than one asked."""
    several = [one for one in of if len(one.summary.callers) > 1]
    if not several:
        return None
    rows = [
        [
            one.target,
            f"{one.load}, round {_round(one)}",
            caller.name,
            f"{caller.share:g}",
            f"{caller.requests:,}",
            f"{caller.answered:,}",
            f"{caller.refused:,}",
            rate(caller.tokens_per_s),
            rate(caller.goodput_per_s),
            span(caller.ttft.p50 if caller.ttft else None),
            span(caller.ttft.p95 if caller.ttft else None),
            span(caller.queue.p50 if caller.queue else None),
            span(caller.queue.p95 if caller.queue else None),
            span(caller.queue.max if caller.queue else None),
            span(caller.latency.p95 if caller.latency else None),
            span(caller.latency.max if caller.latency else None),
            f"{caller.starved:,}",
            _index(one.summary.jain_tokens),
            _index(one.summary.jain_answered),
        ]
        for one in several
        for caller in one.summary.callers
    ]
    header = ["target", "load", "caller", "share", "asked", "answered", "refused", "tokens/s", "goodput/s", "TTFT p50"]
    header += ["TTFT p95", "in line p50", "in line p95", "in line longest", "p95", "longest", "starved"]
    header += ["Jain, tokens", "Jain, answered"]
    says = "Starved: whose answer had not begun after the time that the load calls starving (--starved-after). "
    says += "Jain's index is 1 where all got the same, and 1/n where one of n got it all."
    return Table("Callers", says, header, rows, _sources(several), texts=3)


def came_again(of: Sequence[Judged]) -> Table | None:
    """What those lived through who came back when they were told to."""
    several = [one for one in of if one.summary.obeyed is not None]
    if not several:
        return None
    rows = [[one.target, f"{one.load}, round {_round(one)}", obeyed(one.summary)] for one in several]
    return Table("Those who obeyed Retry-After", "", ["target", "load", ""], rows, _sources(several), texts=3)


def clients(of: Sequence[Judged]) -> Table:
    """What the client saw of itself: whether the figures can be trusted."""
    rows = [
        [
            one.target,
            f"{one.load}, round {_round(one)}",
            f"{one.summary.client.cpu:.0%}",
            span(one.summary.client.late.p99 if one.summary.client.late else None),
            span(one.summary.client.lag.max if one.summary.client.lag else None),
            f"{one.summary.client.max_in_flight:,}",
            "; ".join(warning.partition(":")[0] for warning in one.summary.warnings) or "none",
        ]
        for one in of
    ]
    header = ["target", "load", "CPU of a core", "late, p99", "loop late, worst", "most in flight", "warnings"]
    says = "The client's own lateness is in every time above: where it is more than a few milliseconds, be wary."
    return Table("The client itself", says, header, rows, _sources(of), texts=2)


def made(of: Sequence[Judged], digests: dict[str, str]) -> Table:
    """The files that the runs are kept in."""
    rows = [
        [
            one.run.source,
            digests.get(one.run.source, "")[:12],
            f"{len(one.run.records):,}",
            one.run.header.started_at.split(".")[0].replace("T", " "),
            str(one.run.header.plan.seed),
        ]
        for one in of
    ]
    return Table("Raw files", "", ["file", "SHA-256", "requests", "started (UTC)", "seed"], rows, [], texts=2)


def loads(of: Sequence[Judged]) -> list[str]:
    """What was asked, once for each kind of load."""
    found = [
        f"{one.summary.load}, for {one.run.header.plan.duration_s:g} s at most; {what(one.run.header)}" for one in of
    ]
    return list(dict.fromkeys(found))


def servers(of: Sequence[Judged]) -> list[str]:
    """Who was asked, once for each."""
    found = []
    for one in of:
        target = one.run.header.target
        said = ", ".join(filter(None, [target.model, target.server, *target.notes]))
        found.append(f"{one.target}: {said}")
    return list(dict.fromkeys(found))


def machines(runs: Sequence[Run]) -> list[str]:
    """Where the client ran, once for each machine."""
    found = []
    for run in runs:
        machine = run.header.machine
        memory = f"{machine.memory_bytes / 2**30:.0f} GiB, " if machine.memory_bytes else ""
        found.append(
            f"{machine.cpu}, {machine.cores} cores, {memory}{machine.system}, Python {machine.python}, {machine.loop}; "
            f"Headgate {run.header.headgate}"
        )
    return list(dict.fromkeys(found))


def cell(figure: Figure, words: Callable[[float], str]) -> str:
    """``12.1 (11.8–12.4)``."""
    middle, range_ = figure.in_words(words)
    return f"{middle} ({range_})" if range_ else middle


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _index(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}"


def _round(one: Judged) -> int:
    return one.run.header.place.round if one.run.header.place is not None else 1


def _sources(of: Sequence[Judged]) -> list[str]:
    return [one.run.source for one in of]
