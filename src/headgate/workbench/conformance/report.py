"""The verdicts for a person, as a table that is read on one screen, and for a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.workbench.conformance.promises import Promises
from headgate.workbench.conformance.verdict import Result, Verdict
from headgate.workbench.top.words import span

_SHOWN = {
    Verdict.PASS: ("pass", "green"),
    Verdict.FAIL: ("FAIL", "bold red"),
    Verdict.NOT_APPLICABLE: ("n/a", "dim"),
}


_WIDE = 130
"""Columns in which claim and what was seen stand side by side."""


class Report(msgspec.Struct, frozen=True):
    """Everything that is said of one gateway."""

    gateway: str
    version: str
    engine: str
    suite: str
    results: list[Result]
    interrupted: bool = False

    def count(self, verdict: Verdict) -> int:
        return sum(result.verdict is verdict for result in self.results)


def as_json(report: Report) -> str:
    """One object, the counts first."""
    counts = {verdict.name.lower(): report.count(verdict) for verdict in Verdict}
    said: dict[str, Any] = {**counts, **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(said)).decode()


def show(console: Console, report: Report, again: str) -> None:
    """Print the table, and how a failure is seen again."""
    rounds = max((result.round for result in report.results), default=1)
    wide = console.width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("case", style="cyan", no_wrap=True)
    for title in ("claim", "seen") if wide else ("claim, and what was seen",):
        table.add_column(title, overflow="fold")
    for name in dict.fromkeys(result.case for result in report.results):
        word, claim, said = _row([result for result in report.results if result.case == name], rounds)
        table.add_row(word, Text(name), *((claim, said) if wide else (Text("\n").join((claim, said)),)))
    console.print()
    console.print(table)
    console.print(Text(f"\n{in_short(report)}", "bold"), soft_wrap=True)
    failed = list(dict.fromkeys(result.case for result in report.results if result.verdict is Verdict.FAIL))
    if failed:
        console.print(f"again: {again} --only {','.join(failed)}", markup=False, highlight=False, soft_wrap=True)


def _row(results: Sequence[Result], rounds: int) -> tuple[Text, Text, Text]:
    """The worst of a case's rounds: its verdict, its claim, what was seen."""
    ranks = (Verdict.FAIL, Verdict.PASS, Verdict.NOT_APPLICABLE)
    worst = min(results, key=lambda result: ranks.index(result.verdict))
    word, style = _SHOWN[worst.verdict]
    times = sum(result.verdict is worst.verdict for result in results)
    if rounds > 1 and worst.verdict is not Verdict.NOT_APPLICABLE:
        word = f"{word} {times}/{len(results)}"
    return Text(word, style), Text(worst.claim), Text(worst.said, "red" if worst.verdict is Verdict.FAIL else "dim")


def in_short(report: Report) -> str:
    """One line: the gateway, the counts, the time."""
    seconds = sum(result.seconds for result in report.results)
    counts = [
        f"{report.count(Verdict.PASS)} passed",
        f"{report.count(Verdict.FAIL)} failed",
        f"{report.count(Verdict.NOT_APPLICABLE)} not applicable",
    ]
    name = " ".join(filter(None, (report.gateway, report.version)))
    ended = "; interrupted" if report.interrupted else ""
    return f"{name}: {', '.join(counts)}, in {span(seconds)}{ended}"


def line(result: Result, number: int, count: int) -> Text:
    """One case, as it ends."""
    word, style = _SHOWN[result.verdict]
    return Text.assemble(
        (f"{number:>3}/{count} ", "dim"),
        (f"{word:<5}", style),
        (f"{result.case:<26}", "cyan"),
        " ",
        f"{result.said}",
        (f"  {span(result.seconds)}" if result.verdict is not Verdict.NOT_APPLICABLE else "", "dim"),
    )


def promised(promises: Promises) -> str:
    """What it is held to: ``4 slots, a line of 16, …``."""
    parts = [
        f"{promises.max_active} slots" if promises.max_active else "",
        "" if promises.queue_max is None else f"a line of {promises.queue_max}" if promises.queue_max else "no line",
        f"waits of {span(promises.queue_timeout_s)}" if promises.queue_timeout_s else "",
        f"requests of {span(promises.request_timeout_s)}" if promises.request_timeout_s else "",
        f"an engine silent for {span(promises.silence_s)}" if promises.silence_s else "",
        f"readers stalled for {span(promises.stall_s)}" if promises.stall_s else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing"
