"""Tables from a raw file, and from nothing else: Markdown that reads well in a terminal too.

python -m loadtest.overhead.report results/overhead-….json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.overhead import figures as of
from loadtest.overhead.bars import OURS, YARDSTICK, verdicts
from loadtest.overhead.figures import Figure, Figures
from loadtest.overhead.phases import STREAMS

BUSY_PERCENT = 10
"""Of one core, burned by others in the median phase: above it the report says so."""
UNSTEADY_PERCENT = 15
"""Between the fastest and the slowest round, by a piece of work that is always the same."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The tables of raw files of the overhead benchmark.")
    parser.add_argument("raw", type=Path, nargs="+")
    for path in parser.parse_args().raw:
        print(f"<!-- {path.name} -->\n{render(json.loads(path.read_text()))}")


def render(raw: Mapping[str, Any]) -> str:
    figures = Figures(raw)
    parts = [_head(raw), "## CPU of the gateway\n", _cost(raw, figures)]
    parts += ["\n## Delay, as the client sees it\n", _delay(figures)]
    if counts := [count for count in STREAMS if f"streams-{count}" in _phases(raw)]:
        parts += ["\n## By how many streams there are\n", _by_streams(figures, counts)]
    parts += ["\n## Bars\n", _bars(figures)]
    parts += ["\n## Who was busy (percent of one core)\n", _busy(raw, figures)]
    parts += [_footnotes(raw, figures)]
    return "\n".join(parts)


def _phases(raw: Mapping[str, Any]) -> list[str]:
    """Those that were run."""
    return [phase["name"] for phase in raw["settings"]["phases"]]


def number(figure: Figure | None, digits: int = 1) -> str:
    if figure is None:
        return "–"
    if figure.rounds == 1:
        return f"{figure.middle:.{digits}f}"
    return f"{figure.middle:.{digits}f} ({figure.least:.{digits}f}–{figure.most:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def _head(raw: Mapping[str, Any]) -> str:
    machine, settings = raw["machine"], raw["settings"]
    cores = ", ".join(f"{who} on {where}" for who, where in raw["cores"].items())
    sizes = "; ".join(
        f"{phase['name']}: {phase['requests']} {'streams' if phase['stream'] else 'requests'}, "
        f"{phase['at_once']} at once"
        + (f", {phase['events']} events" if phase["stream"] else "")
        + (f" {phase['interval_ms']:g} ms apart" if phase["interval_ms"] else "")
        for phase in settings["phases"]
    )
    quick = " Quick: figures are rough." if settings["quick"] else ""
    return (
        f"# Overhead, {raw['started_at']}\n\n"
        f"{settings['rounds']} interleaved rounds in {raw['seconds']:.0f} s on {machine['cpu']}, "
        f"{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; "
        f"source {raw['source'] or 'unknown'}.{quick}\n"
        f"Cores: {cores}. Load: {sizes}.\n"
        f"Median of the rounds (least–most); × {YARDSTICK} is the median of the rounds' own ratios.\n"
    )


def _cost(raw: Mapping[str, Any], figures: Figures) -> str:
    rows = []
    for target in figures.targets:
        if target == "direct":
            continue
        row = [target, raw["targets"][target]["version"]]
        for phase in ("paced", "bulk", "whole"):
            ratio = figures.ratio(target, YARDSTICK, of.cpu_us(phase))
            row += [number(figures.figure(target, of.cpu_us(phase))), f"{ratio.middle:.2f}" if ratio else "–"]
        row += [number(figures.figure(target, of.peak_mb), 0), number(figures.figure(target, of.start_s), 2)]
        row += [str(sum(figures.errors(target).values()))]
        rows.append(row)
    header = ["target", "version", "paced µs/event", "×", "bulk µs/event", "×", "whole µs/request", "×"]
    return table([*header, "peak MB", "start s", "errors"], rows)


def _delay(figures: Figures) -> str:
    rows = []
    for target in figures.targets:
        added = None if target == "direct" else figures.added(target, "direct", of.time_ms("ttft", "ttft_ms", "p50"))
        rows.append(
            [
                target,
                number(figures.figure(target, of.time_ms("paced", "event_delay_ms", "p50")), 2),
                number(figures.figure(target, of.time_ms("paced", "event_delay_ms", "p99")), 2),
                number(figures.figure(target, of.time_ms("ttft", "ttft_ms", "p50")), 2),
                number(added, 2),
                number(figures.figure(target, of.time_ms("ttft", "ttft_ms", "p99")), 2),
                number(figures.figure(target, of.rate("whole")), 0),
                number(figures.figure(target, of.time_ms("whole", "latency_ms", "p99")), 1),
                number(figures.figure(target, of.time_ms("open", "latency_ms", "p50")), 2),
                number(figures.figure(target, of.time_ms("open", "latency_ms", "p99")), 2),
            ]
        )
    header = ["target", "event p50 ms", "event p99 ms", "TTFT p50 ms", "added p50 ms", "TTFT p99 ms"]
    return table([*header, "whole/s", "whole p99 ms", "open p50 ms", "open p99 ms"], rows)


def _by_streams(figures: Figures, counts: Sequence[int]) -> str:
    """For each number of streams: µs per event, × the yardstick, how late events are (p50, p99), peak memory."""
    rows = []
    for target in figures.targets:
        for count in counts:
            phase = f"streams-{count}"
            ratio = figures.ratio(target, YARDSTICK, of.cpu_us(phase))
            row = [target, f"{count:,}", number(figures.figure(target, of.cpu_us(phase)))]
            row += [f"{ratio.middle:.2f}" if ratio else "–"]
            for rank in ("p50", "p99"):
                row.append(number(figures.figure(target, of.time_ms(phase, "event_delay_ms", rank)), 2))
                added = figures.added(target, "direct", of.time_ms(phase, "ttft_ms", rank))
                row.append(number(added, 2) if added and target != "direct" else "–")
            row.append("–" if target == "direct" else number(figures.figure(target, of.phase_peak_mb(phase)), 0))
            rows.append(row)
    header = ["target", "streams", "µs/event", "×", "event p50 ms", "TTFT added p50 ms", "event p99 ms"]
    return table([*header, "TTFT added p99 ms", "peak MB"], rows)


def _bars(figures: Figures) -> str:
    """One table for each of ours that was measured."""
    measured = [ours for ours in OURS if ours in figures.targets] or OURS[:1]
    return "\n\n".join(
        table([f"bar, for {ours}", "seen", "verdict"], [[bar.bar, bar.seen, bar.verdict] for bar in found])
        for ours in measured
        for found in [verdicts(figures, ours)]
    )


def _busy(raw: Mapping[str, Any], figures: Figures) -> str:
    """Each cell: gateway / engine / client / everybody else on the machine."""
    rows = []
    seen = _phases(raw)
    for target in figures.targets:
        row = [target]
        for phase in seen:
            shares = [
                figures.figure(target, of.share(phase, whose))
                for whose in ("cpu_ns", "engine_cpu_ns", "client_cpu_ns", "others_cpu_ns")
            ]
            row.append(" / ".join(f"{share.middle:.0f}" if share else "–" for share in shares))
        rows.append(row)
    return table(["gateway / engine / client / others", *seen], rows)


def _doubts(raw: Mapping[str, Any]) -> list[str]:
    """What makes the figures rough, where it can be seen from them."""
    rounds = raw["rounds"]
    busy = [100 * what["others_cpu_ns"] / what["window_ns"] for r in rounds for what in r["phases"].values()]
    speeds = [seen["speed_ms"] for seen in rounds]
    doubts = []
    if busy and median(busy) > BUSY_PERCENT:
        doubts.append(f"- **The machine was busy with other things** ({median(busy):.0f} % of a core).")
    if speeds and max(speeds) > min(speeds) * (1 + UNSTEADY_PERCENT / 100):
        spread = f"{min(speeds):.0f} to {max(speeds):.0f} ms for the same work"
        doubts.append(f"- **The machine's own speed changed** between rounds: {spread}.")
    return doubts


def _footnotes(raw: Mapping[str, Any], figures: Figures) -> str:
    notes = _doubts(raw)
    for name, what in raw["targets"].items():
        if "absent" in what:
            notes.append(f"- {name} was left out: {what['absent']}")
    notes += [f"- round {gone['round']} of {gone['target']} failed: {gone['why']}" for gone in raw["failures"]]
    fewer = {seen["target"]: seen["fewer_streams_by"] for seen in raw["rounds"]}
    notes += [f"- {name} had a {by}th of the streams" for name, by in fewer.items() if by > 1]
    for target in figures.targets:
        notes += [f"- {target}, {kind}: {count}" for kind, count in figures.errors(target).items()]
    return "\n" + "\n".join(notes) + "\n" if notes else ""


if __name__ == "__main__":
    main()
