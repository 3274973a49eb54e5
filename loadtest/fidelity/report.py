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

    Of the simulated engine's the round that had the same seed, and so the same lengths and arrivals.
    """
    head = ["load", "its slowest round", *SHOWN.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in sorted({path.stem[:-2] for path in simulated.glob("held-*-?.jsonl")}):
        rounds = sorted(
            ((seen(raw.read(path)), path.name) for path in real.glob(f"{name}-?.jsonl")),
            key=lambda found: found[0].tokens_per_s,
        )
        (slowest, _), (quickest, file) = rounds[0], rounds[-1]
        played = seen(raw.read(simulated / file))
        cells = [_cell(field, quickest, played) for field in SHOWN]
        least = slowest.tokens_per_s / quickest.tokens_per_s - 1
        lines.append("| " + " | ".join([name.removeprefix("held-").replace("-", " "), f"{least:+.0%}", *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, real: Figures, simulated: Figures) -> str:
    assert name in {field.name for field in fields(Figures)}
    value, other = getattr(real, name), getattr(simulated, name)
    shown = f"{value:,.0f}, {other:,.0f}" if name == "tokens_per_s" else f"{value * 1e3:.1f} ms, {other * 1e3:.1f}"
    return f"{shown}: **{other / value - 1:+.0%}**"
