"""``headgate report`` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_OUT = click.Path(dir_okay=False, path_type=Path, allow_dash=True)


@click.command(context_settings={"max_content_width": 110})
@click.argument("raw", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--html", type=_OUT, metavar="FILE", help="The page. [report.html beside the first RAW]")
@click.option("--markdown", "text", type=_OUT, metavar="FILE", help="The tables as Markdown; - prints them.")
@click.option("--slo", "slo_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Judge anew.")
@click.option("--title", metavar="TEXT", help="Of the report.")
def report(
    raw: tuple[Path, ...], html: Path | None, text: Path | None, slo_file: Path | None, title: str | None
) -> None:
    """Make a page with plots, or Markdown, from raw results.

    RAW are files of `bench` and `compare`, or folders of them. The page is one file that opens with no network. Exit
    status: 0, or 2 where a file is no raw result.
    """
    from headgate.workbench.report import run

    sys.exit(run.report(raw, html, text, slo_file, title))
