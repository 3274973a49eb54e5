"""``headgate compare`` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from headgate.workbench.bench.options import DURATION_S, help_all, job, load_options, option


@click.command(context_settings={"max_content_width": 110})
@option("--orders", metavar="ORDERS", help="Gateways by queue order: fifo,priority,fair.")
@option("--modes", metavar="MODES", help="Gateways by queue mode: queue,reject.")
@option("--max-active", metavar="NUMBERS", help="Gateways by slots: 4,8,16.")
@option("--vary", multiple=True, metavar="SETTING=VALUES", help="Gateways by any setting: queue_max=8,64.")
@option("--set", "fixed", multiple=True, metavar="SETTING=VALUE", help="The same for all that are started.")
@option("--url", "urls", multiple=True, metavar="NAME=URL", help="One that runs already; repeatable.")
@option("--direct", is_flag=True, help="The engine by itself, too.")
@option("--engine-url", metavar="URL", help="Behind the gateways. [a simulated one for each]")
@option("--engine-args", default="", metavar="ARGS", help="Of the simulated engine: '--base-s 0.02'.")
@option("--engine-key", envvar="HEADGATE_ENGINE_API_KEY", hidden=True, help="API key of --engine-url.")
@option("--ready-within", default=600.0, type=click.FloatRange(1, 86_400), hidden=True, help="Longest start. [600]")
@option("--rate", "rates", multiple=True, metavar="RATE", help="As in bench; repeatable: every load on every target.")
@option("--users", "crowds", multiple=True, type=click.IntRange(1, 100_000), metavar="N", help="The same, closed. [8]")
@option("--rounds", default=3, type=click.IntRange(1, 100), metavar="N", help="Of everything. [3]")
@load_options
@option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Raw results. [results/…]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a script.")
@help_all
def compare(rounds: int, out: Path | None, as_json: bool, **given: Any) -> None:
    """Put the same load on several targets, and show the medians.

    They take turns, round after round. Gateways with different settings are started with a simulated engine (or
    --engine-url); others are named with --url. Exit status: 0 all measured, 1 not all, 2 bad arguments.
    """
    from headgate.workbench.bench import arrivals
    from headgate.workbench.compare import run
    from headgate.workbench.compare.start import Engine

    loads: list[tuple[str | None, int | None]] = [(rate, None) for rate in given["rates"]]
    loads += [(None, users) for users in given["crowds"]]
    if not loads:
        loads = [(None, None)] if given["trace"] else [(None, 8)]
    try:
        for rate in given["rates"]:
            arrivals.shape(rate, given["duration_s"] or DURATION_S)
    except arrivals.BadShape as error:
        raise click.UsageError(f"--rate: {error}") from None
    if out is not None and (found := run.results_in(out)):
        raise click.UsageError(
            f"--out: there are results in {out} already ({found[0].name}), and a report of the folder would mix them "
            "with these. Name another."
        )
    # The other loads take the first one's place in the plan; how long they are is the same for all.
    made = job({**given, "rate": loads[0][0], "users": loads[0][1]}, sys.argv[1:])
    what = run.Comparison(
        job=made,
        candidates=_candidates(given),
        loads=loads,
        rounds=rounds,
        engine=Engine(given["engine_url"], given["engine_args"], given["engine_key"]),
        ready_within_s=given["ready_within"],
    )
    sys.exit(run.compare(what, out, as_json=as_json))


def _candidates(given: dict[str, Any]) -> Any:
    from headgate.settings import Settings
    from headgate.workbench.compare import targets

    try:
        vary = {
            setting: targets.values(given[flag], f"--{flag.replace('_', '-')}")
            for flag, setting in targets.SHORT.items()
            if given[flag]
        }
        for name, values in targets.assignments(given["vary"], "--vary").items():
            vary[targets.setting(name)] = targets.values(values, f"--vary {name}")
        fixed = {targets.setting(n): v for n, v in targets.assignments(given["fixed"], "--set").items()}
        for name in (*vary, *fixed):
            if (
                name not in Settings.model_fields
                or name in ("host", "port")
                or (name.endswith("_key") and name in vary)
            ):
                raise targets.BadTarget(f"there is no setting {name!r} to compare by")
        urls = list(targets.assignments(given["urls"], "--url").items())
        return targets.candidates(vary, fixed, urls, direct=given["direct"])
    except targets.BadTarget as error:
        raise click.UsageError(str(error)) from None
