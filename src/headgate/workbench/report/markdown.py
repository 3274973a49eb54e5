"""The report as Markdown: the tables, each with the files it came from. Pure. Drawings are in the HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headgate.workbench.report.page import named
from headgate.workbench.report.tables import Table

_MARKUP = re.compile(r"[\\|*`~\[]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Signs that mean something; a _ within a word is none of them."""


def markdown(
    title: str, says: Sequence[str], warnings: Sequence[str], tables: Sequence[Table], commands: Sequence[str]
) -> str:
    """The document."""
    parts = [f"# {_plain(title)}", *map(_plain, says), *(f"> **{_plain(warning)}**" for warning in warnings)]
    parts += map(_table, tables)
    if commands:
        # Longer than any row of backticks within: nothing in a command ends it.
        fence = "`" * max(3, 1 + max(len(row) for command in commands for row in re.findall("`*", command)))
        parts.append("\n".join(["## Commands\n", f"{fence}sh", *commands, fence]))
    return "\n\n".join(parts) + "\n"


def _table(one: Table) -> str:
    rule = ["---" if number < one.texts else "---:" for number in range(len(one.header))]
    rows = [_row(one.header), _row(rule), *map(_row, one.rows)]
    parts = [f"## {_plain(one.title)}", _plain(one.says), "\n".join(rows)]
    if one.sources:
        parts.append(f"<sub>from {_plain(named(one.sources))}</sub>")
    return "\n\n".join(filter(None, parts))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """What a table or a browser would take for markup is shown as it is; a line stays one."""
    shown = _MARKUP.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;"))
    return " ".join(shown.split())
