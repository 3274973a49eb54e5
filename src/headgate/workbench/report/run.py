"""``headgate report``: raw files in, a page out. Exit status: 0, or 2 where a file is no raw result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import click

from headgate.workbench.bench import raw, slo
from headgate.workbench.bench.raw import BadFile, Objective, Run
from headgate.workbench.compare.medians import Judged, judged, rows
from headgate.workbench.report import figures, markdown, page, series, tables
from headgate.workbench.report.tables import Table


def report(
    given: Sequence[Path], html: Path | None, text: Path | None, slo_file: Path | None, title: str | None
) -> int:
    """Make the report; without a name for either, ``report.html`` beside the first raw file."""
    try:
        files = raw_files(given)
        runs = [raw.read(path) for path in files]
        objectives = slo.read(slo_file) if slo_file is not None else None
    except (BadFile, slo.BadSlo) as error:
        click.echo(f"headgate report: {error}", err=True)
        return 2
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    made = Report(runs, objectives, digests, title)
    if html is None and text is None:
        html = files[0].parent / "report.html"
    for path, content in ((html, made.html), (text, made.markdown)):
        if path is not None:
            try:
                _write(path, content())
            except OSError as error:
                click.echo(f"headgate report: {path} can't be written: {error.strerror}", err=True)
                return 2
    return 0


def raw_files(given: Sequence[Path]) -> list[Path]:
    """The files that were named, and those in the folders that were. Raises BadFile."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.name.endswith(raw.SUFFIXES))
            if not inside:
                raise BadFile(f"{path} has no raw results (*.jsonl) in it")
            found += inside
        else:
            found.append(path)
    names = [path.name for path in found]
    for name in names:
        if names.count(name) > 1:
            raise BadFile(f"two raw files are called {name}: a figure that names it would name both")
    return found


class Report:
    """Everything that a report says, from runs alone."""

    def __init__(
        self, runs: Sequence[Run], objectives: Sequence[Objective] | None, digests: dict[str, str], title: str | None
    ) -> None:
        # In the order in which they were made: a comparison's targets stay as they were given.
        self._runs = sorted(runs, key=lambda run: (run.header.started_at, run.source))
        self._judged = judged(self._runs, objectives)
        self._rows = rows(self._judged)
        self._digests = digests
        self._title = title or _title(self._judged)

    def html(self) -> str:
        """One page."""
        drawings = figures.figures(series.groups(self._judged), self._rows)
        return page.html(
            self._title,
            self._says(),
            self._warnings(),
            tables.results(self._rows),
            drawings,
            self._footnotes(),
            self._commands(),
        )

    def markdown(self) -> str:
        """The same, less the drawings."""
        all_tables = [*tables.results(self._rows), *self._footnotes()]
        return markdown.markdown(self._title, self._says(), self._warnings(), all_tables, self._commands())

    def _says(self) -> list[str]:
        first = self._runs[0].header.started_at.split("T")[0]
        last = self._runs[-1].header.started_at.split("T")[0]
        when = first if first == last else f"{first} to {last}"
        count = len(self._runs)
        found = [f"{count} run{'s' if count != 1 else ''}, {when}", *tables.machines(self._runs)]
        return [*found, *tables.servers(self._judged), *tables.loads(self._judged)]

    def _warnings(self) -> list[str]:
        """About the client; one sentence where they are many."""
        found = [f"{one.target}: {warning}" for one in self._judged for warning in one.summary.warnings]
        if len(found) <= 2:
            return found
        runs = sum(bool(one.summary.warnings) for one in self._judged)
        said = f"In {runs} of {len(self._judged)} runs the client, or the machine that it ran on, was late itself"
        return [f"{said}: see “The client itself” below before trusting small differences."]

    def _footnotes(self) -> list[Table]:
        found = [
            tables.callers(self._judged),
            tables.came_again(self._judged),
            tables.objectives(self._judged),
            tables.clients(self._judged),
            tables.made(self._judged, self._digests),
        ]
        return [table for table in found if table is not None]

    def _commands(self) -> list[str]:
        return list(dict.fromkeys(run.header.command for run in self._runs if run.header.command))


def _title(of: Sequence[Judged]) -> str:
    targets = list(dict.fromkeys(one.target for one in of))
    if len(targets) == 1:
        return f"Load on {targets[0]}"
    return f"{', '.join(targets[:-1])} and {targets[-1]}" if len(targets) <= 4 else f"{len(targets)} targets compared"


def _write(path: Path, content: str) -> None:
    if str(path) == "-":
        click.echo(content, nl=False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    click.echo(f"written: {path}")
