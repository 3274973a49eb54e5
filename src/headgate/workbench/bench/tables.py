"""A run in a terminal: what was sent, what came back, and the verdict. Words carry it, colours only repeat it.

It computes nothing; ``summary`` has.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.workbench.bench.fairness import CallerFigures
from headgate.workbench.bench.figures import Spread
from headgate.workbench.bench.raw import Run
from headgate.workbench.bench.slo import Judged
from headgate.workbench.bench.summary import Summary, what
from headgate.workbench.top.words import rate, span

_LABEL = 11


def show(console: Console, run: Run, summary: Summary, kept_in: str) -> None:
    """Print a run."""
    for part in _parts(run, summary, kept_in):
        console.print(part)
    console.print()
    word = Text("SLO MET", "bold green") if summary.met else Text("SLO MISSED", "bold red")
    missed = [words_of(judged) for judged in summary.objectives if not judged.met]
    console.print(word.append(f": {'; '.join(missed)}" if missed else "", "not bold"))


def _parts(run: Run, summary: Summary, kept_in: str) -> Iterator[Table | Text]:
    header = run.header
    server = f" ({header.target.server})" if header.target.server else ""
    yield _row("target", Text(f"{header.target.url}{header.target.path}, {header.target.model}{server}"))
    for note in header.target.notes:
        yield _row("", Text(note, "yellow"))
    yield _row("load", Text(f"{summary.load}; {what(header)}; seed {header.plan.seed}{_cut(run)}"))
    counts = f"{summary.requests:,} requests: {summary.answered:,} answered, {summary.refused:,} refused, "
    yield _row("ended", Text(counts + f"{summary.errors:,} errors"))
    for reason, count in summary.by_reason.items():
        yield _row("", Text(f"{count:,} × {reason}", "yellow"))
    yield Text()
    yield _times(summary)
    yield Text()
    yield _row("rates", Text(_rates(summary)))
    yield _row("mean", Text(_lengths(run, summary)))
    if summary.obeyed is not None:
        yield _row("obeying", Text(obeyed(summary)))
    if len(summary.callers) > 1:
        yield Text()
        yield _callers(summary.callers)
        yield Text()
        yield _row("Jain", Text(jain(summary)))
    yield _row("client", Text(client(summary)))
    yield _row("raw", Text(kept_in))
    for warning in summary.warnings:
        yield _row("warning", Text(warning, "bold yellow"))
    yield Text()
    yield _objectives(summary.objectives)


def _cut(run: Run) -> str:
    """Where the number of requests ended an open load before its time: the rest of its shape never came."""
    plan = run.header.plan
    if plan.rate is None or len(run.records) < plan.requests:
        return ""
    return f"; ended by --requests {plan.requests:,} after {span(run.end.offered_s)} of {span(plan.duration_s)}"


def words_of(judged: Judged) -> str:
    """An objective in words: ``latency p95 6.2 s, at most 5 s``."""
    bound = f"{'at least' if judged.at_least else 'at most'} {value(judged.name, judged.bound)}"
    return f"{label_of(judged)} {value(judged.name, judged.seen)}, {bound}"


def label(name: str) -> str:
    """``latency p95``, ``errors``, ``TTFT p95``."""
    for unit in ("_ms", "_s", "_percent"):
        name = name.removesuffix(unit)
    words = {"requests_per": "answers/s", "tokens_per": "tokens/s"}.get(name)
    if words:
        return words
    return name.replace("inter_token", "inter-token").replace("ttft", "TTFT").replace("tpot", "TPOT").replace("_", " ")


def label_of(judged: Judged) -> str:
    """Likewise; errors that have refusals in them say so, since everywhere else the two are counted apart."""
    return "errors and refusals" if judged.with_refusals else label(judged.name)


def value(name: str, number: float | None) -> str:
    """A value of an objective with its unit."""
    if number is None:
        return "-"
    if name.endswith("_percent"):
        return f"{number:.3g} %"
    if name.endswith("_per_s"):
        return f"{rate(number)}/s"
    return span(number if name.endswith("_s") else number / 1000)


def obeyed(summary: Summary) -> str:
    """What those lived through who came back when they were told to."""
    seen = summary.obeyed
    assert seen is not None
    if not seen.refused_first:
        return "nobody was refused"
    said = f"{seen.refused_first:,} were refused at first, {seen.answered:,} of them answered in the end"
    if seen.tries is not None and seen.latency is not None:
        said += (
            f", after {seen.tries.mean:.1f} tries (at most {seen.tries.max:.0f}) and {span(seen.latency.p50)} in the "
        )
        said += f"median ({span(seen.latency.p95)} at p95)"
    if seen.came_again:
        said += f"; {seen.in_at_first / seen.came_again:.0%} of those who came back were let in at their first return"
    return f"{said}; {seen.refused_again:,} times one who came when told was refused again"


def jain(summary: Summary) -> str:
    """How evenly it was shared."""
    tokens = "-" if summary.jain_tokens is None else f"{summary.jain_tokens:.3f}"
    answered = "-" if summary.jain_answered is None else f"{summary.jain_answered:.3f}"
    return f"{tokens} of tokens, {answered} of the part answered (1: all alike)"


def client(summary: Summary) -> str:
    """What the client saw of itself."""
    seen = summary.client
    said = [f"{seen.cpu:.0%} of a core", f"at most {seen.max_in_flight:,} in flight"]
    if seen.late is not None:
        said.append(f"sent {span(seen.late.p50)} late in the median, {span(seen.late.p99)} at p99")
    if seen.lag is not None:
        said.append(f"its loop {span(seen.lag.max)} at worst")
    return ", ".join(said)


def _rates(summary: Summary) -> str:
    good = "" if summary.goodput is None else f" ({summary.goodput:.1%} of all)"
    return (
        f"{rate(summary.offered_per_s)} requests/s, {rate(summary.answered_per_s)} answered/s, goodput "
        f"{rate(summary.goodput_per_s)}/s{good}, {rate(summary.tokens_per_s)} tokens/s"
    )


def _lengths(run: Run, summary: Summary) -> str:
    means = [f"{summary.mean_prompt_tokens:,.0f} tokens in" if summary.mean_prompt_tokens else ""]
    means += [f"{summary.mean_tokens:,.0f} out" if summary.mean_tokens else ""]
    said = [", ".join(filter(None, means))]
    if summary.short_answers:
        said.append(f"{summary.short_answers:,} answers were shorter than asked")
    if summary.estimated:
        said.append("the engine counts no tokens" + (": events are taken for them" if run.header.plan.stream else ""))
    return "; ".join(filter(None, said))


def _times(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", width=_LABEL, style="cyan")
    for name in ("p50", "p90", "p95", "p99", "max", "mean"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, Spread | None]] = [
        ("latency", summary.latency),
        ("TTFT", summary.ttft),
        ("inter-token", summary.inter_token),
        ("per token", summary.tpot),
        ("in line", summary.queue),
    ]
    for name, values in rows:
        if values is not None:
            seen = (values.p50, values.p90, values.p95, values.p99, values.max, values.mean)
            table.add_row(name, *map(span, seen))
    if not table.row_count:
        table.add_row("latency", *["-"] * 6)
    return table


def _callers(callers: list[CallerFigures]) -> Table:
    """Narrow, since a cut figure says nothing; only names may take more than one line."""
    starved = any(caller.starved for caller in callers)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("caller", overflow="fold")
    names = ["asked", "answered", "refused", "tokens\n/s", "good\n/s", "TTFT\np50", "TTFT\np95", "p95", "longest"]
    for name in [*names, *(["starved"] if starved else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for caller in callers:
        table.add_row(
            Text(caller.name + (f" ×{caller.share:g}" if caller.share != 1 else "")),
            f"{caller.requests:,}",
            f"{caller.answered:,}",
            f"{caller.refused:,}",
            rate(caller.tokens_per_s),
            rate(caller.goodput_per_s),
            span(caller.ttft.p50 if caller.ttft else None),
            span(caller.ttft.p95 if caller.ttft else None),
            span(caller.latency.p95 if caller.latency else None),
            span(caller.latency.max if caller.latency else None),
            *([f"{caller.starved:,}"] if starved else []),
        )
    return table


def _objectives(judged: list[Judged]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("objective", style="cyan")
    table.add_column("seen", justify="right")
    table.add_column("bound", justify="right")
    table.add_column("")
    for one in judged:
        verdict = Text("met", "green") if one.met else Text("not measured" if one.met is None else "MISSED", "bold red")
        sign = "≥" if one.at_least else "≤"
        note = Text(f"  {one.note}", "dim") if one.note else Text()
        bound = f"{sign} {value(one.name, one.bound)}"
        table.add_row(label_of(one), value(one.name, one.seen), bound, verdict + note)
    return table


def _row(name: str, said: Text) -> Table:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(width=_LABEL, no_wrap=True, style="cyan")
    line.add_column(ratio=1, overflow="fold")
    line.add_row(name, said)
    return line
