"""``headgate bench`` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from headgate.workbench.bench.options import help_all, job, load_options, option


@click.command(context_settings={"max_content_width": 110})
@click.argument("url", default="http://127.0.0.1:8080")
@option("--rate", metavar="RATE", help="Open loop: 10, ramp:1-20, step:5,10,20 or spike:5,50 requests/s.")
@option("--users", type=click.IntRange(1, 100_000), metavar="N", help="Closed loop: so many at once. [8]")
@load_options
@click.option(
    "--raw",
    "kept_in",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where results go. [results/…]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a script.")
@help_all
def bench(url: str, kept_in: Path | None, as_json: bool, **given: Any) -> None:
    """Put a load on an OpenAI-compatible URL, and judge it.

    It is judged by an SLO. With --rate requests come when they are due and never wait for answers (open loop); with
    --users each user sends the next when the last has ended. Exit status: 0 SLO met, 1 missed, 2 bad arguments or not
    reached.
    """
    made = job(given, sys.argv[1:])

    from headgate.workbench.bench import run

    sys.exit(run.bench(made, url, kept_in, as_json=as_json))
