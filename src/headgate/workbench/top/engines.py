"""The engines' part of a frame: a line for each, and below it what is wrong, or how far its start has come.

Separate because there may be more of them than lines: what is in trouble comes first, each keeps its line as long as
there is room, and what is left of the room goes to details in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.text import Text

from headgate.workbench.top.picture import Engine
from headgate.workbench.top.words import bar, span

_STYLES = {
    "ready": "bold green",
    "asleep": "blue",
    "stopped": "dim",
    "failed": "bold red",
    "wedged": "bold red",
    "backoff": "bold red",
}
_FIRST = ("failed", "wedged", "backoff", "starting", "stopping", "draining")
_BROKEN = ("failed", "wedged", "backoff")
_LAST_LINES = 3


def engine_lines(engines: Sequence[Engine], width: int, room: int, plain: bool) -> list[Text]:
    """At most ``room`` lines."""
    ordered = sorted(engines, key=lambda e: _FIRST.index(e.state) if e.state in _FIRST else len(_FIRST))
    named = ordered if len(ordered) <= room else ordered[: room - 1]
    more = [_rest(ordered[len(named) :])] if len(named) < len(ordered) else []
    spare = room - len(named) - len(more)
    lines: list[Text] = []
    for engine in named:
        details = _details(engine, width, plain)[:spare]
        spare -= len(details)
        lines += [_headline(engine, width, plain), *details]
    return lines + more


def _headline(engine: Engine, width: int, plain: bool) -> Text:
    state = (engine.state.upper().ljust(9), _STYLES.get(engine.state, "yellow"))
    head = Text.assemble((engine.name.ljust(4), "cyan"), state, engine.kind or "engine")
    if engine.state not in ("ready", "draining"):
        return head.append(f"  for {span(engine.since_s)}")
    head.append(f"  {engine.in_flight} of {engine.slots} in flight")
    if engine.running is not None:
        waiting = f", {engine.waiting:.0f} wait" if engine.waiting is not None else ""
        head.append(f"   it runs {engine.running:.0f}{waiting}")
    if engine.kv_usage is not None:
        drawn = bar(engine.kv_usage, 6 if width < 100 else 16, ascii_only=plain)
        head.append("   KV ").append(f"{drawn} {engine.kv_usage:.0%}", "red" if engine.kv_usage >= 0.95 else "")
    return head


def _details(engine: Engine, width: int, plain: bool) -> list[Text]:
    lines: list[Text] = []
    if engine.state == "starting":
        lines.append(_loading(engine, plain))
    if engine.failure is not None:
        lines += _said(engine.failure, "bold red", width)
    if engine.state in _BROKEN:
        words = [line for line in engine.last_lines if line.strip()][-_LAST_LINES:]
        lines += [row for line in words for row in _said(line, "", width)]
    facts = [", ".join(engine.models)] if engine.models else []
    if engine.starts and engine.kind != "remote":
        facts.append("starts: " + ", ".join(f"{count} by {cause}" for cause, count in engine.starts.items()))
    if engine.state == "ready":
        facts.append(f"ready for {span(engine.since_s)}")
    return [*lines, Text("    " + "   ".join(facts), "dim")] if facts else lines


def _loading(engine: Engine, plain: bool) -> Text:
    if engine.kind == "remote":
        return Text(f"    {engine.url or 'it'} doesn't answer yet; somebody else runs it", "yellow")
    load = engine.load
    text = Text(f"    {load.phase if load is not None and load.phase else 'starting up'}", "yellow")
    if load is not None and load.fraction is not None:
        text.append(f" {bar(load.fraction, 20, ascii_only=plain)} {load.fraction:.0%}")
    known = engine.eta_s is not None
    return text.append(
        f"   about {span(engine.eta_s)} left" if known else "   no ETA: it was never seen to start before"
    )


def _said(text: str, style: str, width: int) -> list[Text]:
    """What went wrong, in up to three rows: nobody can look up a cut line at night."""
    return [Text(f"    {row}", style) for row in wrap(" ".join(text.split()), max(20, width - 4))[:3]]


def _rest(engines: Sequence[Engine]) -> Text:
    counts: dict[str, int] = {}
    for engine in engines:
        counts[engine.state] = counts.get(engine.state, 0) + 1
    return Text(f"    and {len(engines)} more: {', '.join(f'{n} {state}' for state, n in counts.items())}", "dim")
