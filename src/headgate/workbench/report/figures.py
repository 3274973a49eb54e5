"""The figures of a report: which there are, what is in each, and what it says about itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headgate.workbench.bench import slo
from headgate.workbench.compare.medians import Row
from headgate.workbench.report import series
from headgate.workbench.report.axis import Axis, counted, percent, seconds
from headgate.workbench.report.chart import COLOURS, Chart, Part, bars
from headgate.workbench.report.series import Group
from headgate.workbench.top.words import rate, span

Key = tuple[str, str]
"""A class and the name that it stands for."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure."""

    title: str
    says: str
    key: list[Key]
    svg: str
    sources: list[str]


def figures(groups: Sequence[Group], rows: Sequence[Row]) -> list[Drawing]:
    """All that there is something to show in."""
    colours = {target: number for number, target in enumerate(dict.fromkeys(group.target for group in groups))}
    loads = list(dict.fromkeys(group.load for group in groups))
    found: list[Drawing | None] = [over_load(rows, colours)]
    for load in loads:
        together = [group for group in groups if group.load == load]
        for few in _at_most(together, COLOURS):
            at = f", {load}" if len(loads) > 1 else ""
            found += [
                what_became(few, at),
                latency(few, colours, at),
                first_token(few, colours, at),
                inter_token(few, colours, at),
                over_time(few, colours, at),
            ]
    return [one for one in found if one is not None]


def latency(groups: Sequence[Group], colours: dict[str, int], at: str) -> Drawing | None:
    """How large a part of all requests was answered within a time."""
    lines = [(group, *series.latencies(group)) for group in groups]
    values = [value for _, found, _ in lines for value in found]
    if not values:
        return None
    chart = Chart(seconds(values, "latency"), percent("of all requests"), f"Latency{at}")
    for group, found, count in lines:
        points = series.cumulative(found, count)
        if points:
            chart.steps(
                [*points, (chart.x.high, points[-1][1])], colours[group.target], dash=colours[group.target] // 8
            )
    bound = slo.good(series.objectives(groups[0].runs[0])).latency_s
    if bound is not None:
        chart.mark_x(bound, f"SLO {span(bound)}")
    says = "The part of all requests that was answered within a time. A line that ends below 100 % has lost the rest: "
    return _drawing(f"Latency{at}", says + "refused, or failed.", groups, colours, chart)


def inter_token(groups: Sequence[Group], colours: dict[str, int], at: str) -> Drawing | None:
    """How large a part of the gaps between tokens was within a time."""
    lines = [(group, series.gaps(group)) for group in groups]
    values = [value for _, found in lines for value in found if value > 0]
    if not values:
        return None
    chart = Chart(seconds(_middle(values), "between two tokens"), percent("of all gaps"), f"Inter-token latency{at}")
    for group, found in lines:
        points = series.cumulative(found, len(found))
        if points:
            chart.steps([*points, (chart.x.high, points[-1][1])], colours[group.target])
    bound = slo.good(series.objectives(groups[0].runs[0])).inter_token_s
    if bound is not None:
        chart.mark_x(bound, f"SLO {span(bound)}")
    says = "The part of all gaps between two events of a stream that was within a time."
    return _drawing(f"Inter-token latency{at}", says, groups, colours, chart)


def first_token(groups: Sequence[Group], colours: dict[str, int], at: str) -> Drawing | None:
    """Time to first token by when a request was due: each of them, or percentiles where there are many."""
    lines = [(group, series.first_tokens(group)) for group in groups]
    values = [value for _, found in lines for _, value in found]
    if not values:
        return None
    until = max(max(one.run.end.offered_s for one in group.runs) for group in groups) or 1.0
    many = len(values) > series.MOST_POINTS
    x = Axis(0.0, until, "due", unit="s")
    chart = Chart(x, seconds(values, "time to first token"), f"Time to first token{at}")
    for group, found in lines:
        colour = colours[group.target]
        if many:
            chart.line(series.binned(found, until, 50), colour, thin=True)
            chart.line(series.binned(found, until, 95), colour, dash=1)
        else:
            chart.dots(found, colour, [f"{group.target}: {span(v)}, due at {t:.1f} s" for t, v in found], small=True)
    bound = slo.good(series.objectives(groups[0].runs[0])).ttft_s
    if bound is not None:
        chart.mark_y(bound, f"SLO {span(bound)}")
    what = "the median, and dashed the 95th percentile" if many else "each answered request"
    return _drawing(f"Time to first token{at}", f"By when a request was due: {what}.", groups, colours, chart)


def over_time(groups: Sequence[Group], colours: dict[str, int], at: str) -> Drawing | None:
    """What was offered each second, and what came back."""
    until = max(max(one.run.end.span_s for one in group.runs) for group in groups)
    if until <= 0 or not any(group.records for group in groups):
        return None
    lines = []
    for group in groups:
        answered = [record.at_s + record.latency_s for record in group.records if record.outcome == "ok"]
        lines.append((group, series.per_second(answered, until, len(group.runs))))
    due = series.per_second((record.at_s for record in groups[0].records), until, len(groups[0].runs))
    highest = [value for points in (due, *(found for _, found in lines)) for _, value in points]
    title = f"Over time{at}"
    chart = Chart(Axis(0.0, until, "time", unit="s"), counted(highest, "requests", "1/s"), title)
    says = f"Answers that ended in each stretch of {until / len(due):.2g} s"
    if groups[0].runs[0].run.header.plan.users is None:  # in a closed loop each target has been asked for its own
        chart.steps([*due, (until, due[-1][1])], COLOURS - 1, dash=2)
        says += "; dotted, what was due in it"
    for group, found in lines:
        chart.steps([*found, (until, found[-1][1])], colours[group.target])
    return _drawing(title, f"{says}.", groups, colours, chart)


def over_load(rows: Sequence[Row], colours: dict[str, int]) -> Drawing | None:
    """Throughput and goodput over what was offered, where more than one load was."""
    few = [row for row in rows if row.offered_per_s.median is not None and colours[row.target] < COLOURS]
    if len({row.load for row in few}) < 2:
        return None
    offered = [row.offered_per_s.median or 0.0 for row in few]
    highest = [row.answered_per_s.most or 0.0 for row in few]
    title = "Throughput and goodput over offered load"
    chart = Chart(counted(offered, "offered", "requests/s"), counted([*offered, *highest], "answered", "1/s"), title)
    chart.line([(0.0, 0.0), (max(offered), max(offered))], COLOURS - 1, dash=2, thin=True)
    for target in dict.fromkeys(row.target for row in few):
        mine = sorted((row for row in few if row.target == target), key=lambda row: row.offered_per_s.median or 0.0)
        colour = colours[target]
        answered = [(row.offered_per_s.median or 0.0, row.answered_per_s.median or 0.0) for row in mine]
        good = [(row.offered_per_s.median or 0.0, row.goodput_per_s.median or 0.0) for row in mine]
        spans = [
            (row.offered_per_s.median or 0.0, row.goodput_per_s.least or 0.0, row.goodput_per_s.most or 0.0)
            for row in mine
        ]
        chart.line(answered, colour, dash=1, thin=True)
        chart.ranges(spans, colour)
        chart.line(good, colour)
        chart.dots(good, colour, [f"{target}: {rate(y)} good answers/s of {rate(x)} offered" for x, y in good])
    says = (
        "Solid: answers per second within the SLO (goodput), the median of the rounds and their range. Dashed: all "
        "answers. Dotted: as much as was offered."
    )
    sources = [source for row in few for source in row.sources]
    key = [(f"b{colours[target]}", target) for target in dict.fromkeys(row.target for row in few)]
    return Drawing(title, says, key, chart.svg(), sources)


def what_became(groups: Sequence[Group], at: str) -> Drawing | None:
    """Answers, refusals and errors of each target, by reason."""
    found = [(group, series.fates(group)) for group in groups]
    names = list(dict.fromkeys(name for _, fates in found for name, _ in fates))
    if not names:
        return None
    names.sort(key=lambda name: (name != series.GOOD, name != series.LATE, not name.startswith("refused")))
    classes = _classes(names)
    rows = []
    for group, fates in found:
        counts = dict(fates)
        total = sum(counts.values())
        parts = [
            Part(counts[name] / total, classes[name], f"{name}: {counts[name]:,} of {total:,}")
            for name in names
            if name in counts
        ]
        rows.append((group.target, parts))
    title = f"What became of requests{at}"
    says = "Answers within the SLO and later than it, refusals and errors by reason."
    sources = [source for group in groups for source in group.sources]
    return Drawing(title, says, [(classes[name], name) for name in names], bars(rows, title), sources)


def _classes(names: Sequence[str]) -> dict[str, str]:
    """Green, yellow, then a shade for each reason; the fifth and later of a kind look like the fourth."""
    classes = {series.GOOD: "good", series.LATE: "late"}
    for kind in ("refused", "error"):
        for number, name in enumerate(name for name in names if name.startswith(kind)):
            classes[name] = f"{kind}{min(number, 3)}"
    return classes


def _drawing(title: str, says: str, groups: Sequence[Group], colours: dict[str, int], chart: Chart) -> Drawing:
    key = [(f"b{colours[group.target] % COLOURS}", group.target) for group in groups]
    return Drawing(title, says, key, chart.svg(), [source for group in groups for source in group.sources])


def _at_most(groups: Sequence[Group], count: int) -> list[Sequence[Group]]:
    return [groups[first : first + count] for first in range(0, len(groups), count)]


def _middle(values: list[float]) -> list[float]:
    """Without the lowest hundredth: two events of one read are next to nothing apart and would take half the axis."""
    ordered = sorted(values)
    return ordered[len(ordered) // 100 :]
