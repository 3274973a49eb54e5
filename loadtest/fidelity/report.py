"""The table: each load's figures on the real engine, and how far the simulated one is from them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from headgate.workbench.bench import raw
from headgate.workbench.fitting.play import Figures, seen

SHOWN = {
    "tokens_per_s": "tokens/s",
    "ttft_p50": "TTFT p50",
    "ttft_p95": "TTFT p95",
    "gap_p50": "inter-token p50",
    "gap_p95": "inter-token p95",
}


def markdown(real: Path, simulated: Path) -> str:
    """A row for each load that both engines had: the real one's quickest round, its slowest, and the simulated one's.

    The quickest of those that both had, since a round has lengths and arrivals of its own.
    """
    head = ["load", "its slowest round", *SHOWN.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in sorted({_load(path) for path in simulated.glob("held-*.jsonl")}):
        rounds = {path.name: seen(raw.read(path)) for path in real.glob(f"{name}-*.jsonl")}
        played = {path.name: seen(raw.read(path)) for path in simulated.glob(f"{name}-*.jsonl") if path.name in rounds}
        if not played:
            continue
        file = max(played, key=lambda each: rounds[each].tokens_per_s)
        quickest, slowest = rounds[file], min(rounds.values(), key=lambda each: each.tokens_per_s)
        cells = [_cell(field, quickest, played[file]) for field in SHOWN]
        least = f"{slowest.tokens_per_s / quickest.tokens_per_s - 1:+.0%}" if len(rounds) > 1 else "–"
        lines.append("| " + " | ".join([name.removeprefix("held-").replace("-", " "), least, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _load(path: Path) -> str:
    """Of a file that is called by its load and the number of the round."""
    return path.stem.rpartition("-")[0]


def _cell(name: str, real: Figures, simulated: Figures) -> str:
    assert name in {field.name for field in fields(Figures)}
    value, other = getattr(real, name), getattr(simulated, name)
    shown = f"{value:,.0f}, {other:,.0f}" if name == "tokens_per_s" else f"{value * 1e3:.1f} ms, {other * 1e3:.1f}"
    return f"{shown}: **{other / value - 1:+.0%}**"
