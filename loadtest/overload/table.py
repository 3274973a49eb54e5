"""The tables of an overload run in Markdown, from its raw files alone. ``python -m loadtest.overload.table DIR…``"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from headgate.workbench.bench import raw
from headgate.workbench.bench.raw import Run
from headgate.workbench.bench.summary import Summary, summarize, what
from headgate.workbench.compare.medians import Judged, judged

DIRECT = "direct"


def markdown(runs: Sequence[Run]) -> str:
    """Goodput and what came with it; those who obeyed; the processes."""
    found = judged(sorted(runs, key=lambda run: (run.header.started_at, run.source)))
    plain = [one for one in found if one.summary.obeyed is None]
    obeyed = [one for one in found if one.summary.obeyed is not None]
    parts = _doubts(found)
    if plain:
        parts += [_goodput(plain), _detail(plain), _processes(plain)]
    if obeyed:
        parts.append(_obeyed(obeyed))
    return "\n\n".join(parts) + "\n"


def in_short(run: Run) -> str:
    """One line while it goes on."""
    seen = summarize(run)
    place = run.header.place
    slots = place.settings.get("slots", "").rpartition(":")[2] if place is not None else ""
    said = f"{seen.goodput_per_s:.1f} good/s of {seen.offered_per_s:.1f}, TTFT p99 {_ttft(seen, 'p99')}"
    said += f", refused {_share(seen.refused, seen)}, errors {_share(seen.errors, seen)}"
    said += f", client {seen.client.cpu:.0%} of a core"
    if seen.obeyed is not None and seen.obeyed.came_again:
        said += f", in at first return {seen.obeyed.in_at_first / seen.obeyed.came_again:.0%}"
    return said + (f", {slots} slots" if slots else "")


def _doubts(found: Sequence[Judged]) -> list[str]:
    """What makes a run worth little or nothing, before all figures."""
    lines = []
    for one in found:
        seen, place = one.summary, one.run.header.place
        said = list(seen.warnings)
        if not seen.requests:
            said.append("nothing was due after the warm-up")
        elif seen.errors == seen.requests:
            said.append("nobody was answered: " + ", ".join(f"{n} × {why}" for why, n in seen.by_reason.items()))
        round_ = f", round {place.round}" if place is not None else ""
        lines += [f"- {_rate(one)}/s, {one.target}{round_}: {what}" for what in said]
    return ["\n".join(["To be doubted:", "", *lines])] if lines else []


def _goodput(found: Sequence[Judged]) -> str:
    """A row for each target, a column for each load; the mean of the rounds, and their range."""
    rates = _rates(found)
    rows = [["good answers/s", *(f"{rate}/s offered" for rate in rates)]]
    for target in _targets(found):
        cells = []
        for rate in rates:
            values = [one.summary.goodput_per_s for one in found if one.target == target and _rate(one) == rate]
            cells.append(_mean(values))
        rows.append([target, *cells])
    return _table(rows)


def _detail(found: Sequence[Judged]) -> str:
    """Of fewer than a hundred requests the 99th percentile is the longest: so how many they were is there, too."""
    names = ["requests", "answered/s", "TTFT p50", "TTFT p99", "latency p99", "refused", "errors", "slots"]
    rows = [["offered", "target", *names]]
    for rate in _rates(found):
        for target in _targets(found):
            group = [one for one in found if one.target == target and _rate(one) == rate]
            if not group:
                continue
            rows.append(
                [
                    f"{rate}/s",
                    target,
                    f"{sum(one.summary.requests for one in group):,}",
                    _mean([one.summary.answered_per_s for one in group]),
                    _seconds(group, lambda s: s.ttft.p50 if s.ttft else None),
                    _seconds(group, lambda s: s.ttft.p99 if s.ttft else None),
                    _seconds(group, lambda s: s.latency.p99 if s.latency else None),
                    _percent(group, lambda s: s.refused),
                    _percent(group, lambda s: s.errors),
                    ", ".join(_slots(one) for one in group),
                ]
            )
    return _table(rows)


def _processes(found: Sequence[Judged]) -> str:
    rows = [
        [
            "offered",
            "target",
            "client CPU",
            "sent late, p99",
            "its loop late, p99",
            "gateway CPU",
            "engine CPU",
            "machine",
        ]
    ]
    for one in sorted(found, key=lambda one: (float(_rate(one)), one.target)):
        client = one.summary.client
        settings = one.run.header.place.settings if one.run.header.place is not None else {}
        rows.append(
            [
                f"{_rate(one)}/s",
                one.target,
                f"{client.cpu:.0%}",
                f"{1000 * client.late.p99:.1f} ms" if client.late else "–",
                f"{1000 * client.lag.p99:.0f} ms" if client.lag else "–",
                *(_of_a_core(settings.get(what)) for what in ("gateway_cpu", "engine_cpu", "machine_cpu")),
            ]
        )
    return _table(rows)


def _obeyed(found: Sequence[Judged]) -> str:
    rows = [
        [
            "offered",
            "target",
            "good/s",
            "refused at first",
            "answered in the end",
            "in at the first return",
            "to the answer, p50",
            "p95",
        ]
    ]
    for one in found:
        seen = one.summary.obeyed
        assert seen is not None
        rows.append(
            [
                f"{_rate(one)}/s",
                one.target,
                f"{one.summary.goodput_per_s:.1f}",
                f"{seen.refused_first} of {one.summary.requests}",
                f"{seen.answered}",
                f"{seen.in_at_first / seen.came_again:.0%} of {seen.came_again}" if seen.came_again else "–",
                f"{seen.latency.p50:.1f} s" if seen.latency else "–",
                f"{seen.latency.p95:.1f} s" if seen.latency else "–",
            ]
        )
    return _table(rows)


def _targets(found: Sequence[Judged]) -> list[str]:
    names = dict.fromkeys(one.target for one in found)
    return sorted(names, key=lambda name: (name != DIRECT, not name.startswith(("auto", "compiled", "slots"))))


def _rates(found: Sequence[Judged]) -> list[str]:
    return sorted({_rate(one) for one in found}, key=float)


def _rate(one: Judged) -> str:
    return one.run.header.plan.rate or "0"


def _slots(one: Judged) -> str:
    settings = one.run.header.place.settings if one.run.header.place is not None else {}
    at_end = settings.get("slots", "").rpartition(":")[2]
    return f"{at_end} ({settings.get('why', '')})" if at_end else "–"


def _ttft(seen: Summary, rank: str) -> str:
    return "–" if seen.ttft is None else f"{seen.ttft.at(rank):.2f} s"


def _share(count: int, seen: Summary) -> str:
    return f"{count / seen.requests:.0%}" if seen.requests else "–"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{sum(values) / len(values):.1f}"
    return f"{mean} ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else mean


def _seconds(group: Sequence[Judged], of: Callable[[Summary], float | None]) -> str:
    values = [value for one in group if (value := of(one.summary)) is not None]
    return f"{sum(values) / len(values):.2f} s" if values else "–"


def _percent(group: Sequence[Judged], of: Callable[[Summary], int]) -> str:
    asked = sum(one.summary.requests for one in group)
    return f"{sum(of(one.summary) for one in group) / asked:.0%}" if asked else "–"


def _of_a_core(said: str | None) -> str:
    return "–" if said is None else f"{float(said):.0%}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    """Print the tables of the folders that are named; status 2 where they make none."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.table", description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    folders: list[Path] = parser.parse_args().folders
    try:
        runs = [raw.read(path) for folder in folders for path in sorted(folder.glob("*.jsonl.gz"))]
    except raw.BadFile as error:
        parser.error(str(error))
    if not runs:
        parser.error(f"no *.jsonl.gz in {', '.join(map(str, folders))}")
    for run in runs:
        if run.header.place is None or not _is_number(run.header.plan.rate):
            parser.error(f"{run.source} is of another tool: see headgate report")
    if len({(what(run.header), tuple(run.header.slo)) for run in runs}) > 1:
        parser.error("these runs asked for different things, or are judged by different objectives")
    print(markdown(runs))


def _is_number(rate: str | None) -> bool:
    return rate is not None and rate.replace(".", "", 1).isdecimal()


if __name__ == "__main__":
    main()
