"""Findings on a screen: one line each as they are made, the mend below it, one sentence at the end. Or as JSON.

Words carry the verdict, colours only repeat it. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.workbench.check.finding import Finding, Verdict

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_WORDS = {Verdict.OK: "ok", Verdict.WARN: "warn", Verdict.FAIL: "FAIL"}


def show(console: Console, findings: Iterable[Finding]) -> list[Finding]:
    """Print each as it comes; all of them."""
    shown = []
    for finding in findings:
        shown.append(finding)
        console.print(_line(finding))
    return shown


def show_sentence(console: Console, sentence: str, verdict: Verdict) -> None:
    """The last line."""
    console.print()
    console.print(Text(sentence, _STYLES[verdict]))


def as_json(findings: Sequence[Finding], sentence: str, status: int, command: str) -> str:
    """Everything, for a script."""
    content: dict[str, Any] = {
        "command": command,
        "exit_status": status,
        "verdict": str(worst(findings)),
        "sentence": sentence,
        "findings": [msgspec.to_builtins(finding) for finding in findings],
    }
    return msgspec.json.format(msgspec.json.encode(content)).decode()


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict of all."""
    return max((finding.verdict for finding in findings), key=list(Verdict).index, default=Verdict.OK)


def _line(finding: Finding) -> Table:
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(width=4, no_wrap=True)
    line.add_column(width=8, no_wrap=True)
    line.add_column(ratio=1, overflow="fold")
    said = Text(finding.what)
    if finding.mend:
        said.append(f"\nmend: {finding.mend}", "bold")
    line.add_row(Text(_WORDS[finding.verdict], _STYLES[finding.verdict]), Text(finding.name, "cyan"), said)
    return line
