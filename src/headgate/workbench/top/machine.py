"""The machine's part of a frame: the GPUs and the money, where there are any.

Separate because most gateways that are tried out have neither. GPUs beyond the room are put together in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from headgate.workbench.check.finding import size
from headgate.workbench.top.picture import Cost, Gpu, Status
from headgate.workbench.top.words import bar

_HOT_C = 85.0
_NEAR_LIMIT = 0.97


def gpu_lines(status: Status, width: int, room: int, plain: bool) -> list[tuple[str, Text]]:
    """At most ``room`` rows, each with its label. With no GPU none, unless an engine can't do without one."""
    gpu = status.gpu
    rows: list[tuple[str, Text]] = []
    if gpu.status != "ok" and gpu.reason and (gpu.gpus or any(engine.kind == "vllm" for engine in status.engines)):
        rows.append(("gpu", Text(f"unavailable: {gpu.reason}", "yellow")))
    room -= len(rows)
    shown = gpu.gpus if len(gpu.gpus) <= room else gpu.gpus[: max(room - 1, 0)]
    rows += [(f"gpu {each.index}", Text("   ").join(_facts(each, width, plain))) for each in shown]
    rest = gpu.gpus[len(shown) :]
    if rest:
        rows.append(("", _rest(rest)))
    return rows


def cost_text(cost: Cost) -> Text:
    """What it has cost since the start."""
    parts = {kind: dollars for kind, dollars in cost.dollars.items() if dollars is not None}
    text = Text.assemble((money(sum(parts.values())), "bold"), " since the start")
    if cost.dollars_per_million_tokens is not None:
        text.append(f", {money(cost.dollars_per_million_tokens)} per million tokens", "bold")
    return text.append("   " + ", ".join(f"{kind} {money(dollars)}" for kind, dollars in parts.items()))


def money(dollars: float) -> str:
    """``$0.00``, ``<$0.01``, ``$0.42``, ``$1,234``."""
    if 0 < dollars < 0.005:
        return "<$0.01"
    return f"${dollars:,.2f}" if dollars < 1000 else f"${dollars:,.0f}"


def _facts(gpu: Gpu, width: int, plain: bool) -> Iterator[Text]:
    if gpu.utilization is not None:
        drawn = bar(gpu.utilization, 6 if width < 100 else 16, ascii_only=plain)
        yield Text(f"{drawn} {gpu.utilization:.0%} busy")
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
        yield Text(f"{size(gpu.memory_used_bytes)} of {size(gpu.memory_total_bytes)}")
    if gpu.temperature_c is not None:
        yield Text(f"{gpu.temperature_c:.0f} °C", "red" if gpu.temperature_c >= _HOT_C else "")
    if gpu.power_w is not None:
        limit_w = gpu.power_limit_w
        held = limit_w is not None and gpu.power_w >= _NEAR_LIMIT * limit_w
        yield Text(f"{gpu.power_w:.0f}{f' of {limit_w:.0f}' if limit_w else ''} W", "yellow" if held else "")
    yield Text(gpu.name, "dim")


def _rest(gpus: Sequence[Gpu]) -> Text:
    busy = max((gpu.utilization for gpu in gpus if gpu.utilization is not None), default=None)
    hot = max((gpu.temperature_c for gpu in gpus if gpu.temperature_c is not None), default=None)
    text = Text(f"and {len(gpus)} more", "dim")
    if busy is not None:
        text.append(f", at most {busy:.0%} busy")
    if hot is not None:
        text.append(f", at most {hot:.0f} °C")
    return text
