"""``headgate conformance`` on the command line. Imported with it: nothing but click is loaded."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from headgate.workbench.bench.options import help_all, option, redacted

NAMES = ("headgate", "haproxy", "sglang-router", "vllm-router", "litellm")
_SECONDS = click.FloatRange(min=0, max=86_400, min_open=True)


@click.command(context_settings={"max_content_width": 110})
@click.argument("url", required=False)
@option("--start", type=click.Choice(NAMES), metavar="NAME", help=f"Start one of: {', '.join(NAMES)}.")
@option("--start-command", metavar="CMD", help="Start your own: '… {port} … {engine_url} … {max_active}'.")
@option(
    "--peers-env",
    "environments",
    multiple=True,
    metavar="DIR",
    help="Where it is installed. [.venv-peers, .venv-litellm]",
)
@option(
    "--engine-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="The scripted engine, for URL to be pointed at.",
)
@option("--engine-metrics", metavar="URL", help="A vLLM behind URL: judge by its gauges what can be.")
@option("--max-active", type=click.IntRange(1), metavar="N", help="URL promises: slots. [Headgate's /status says]")
@option("--queue-max", type=click.IntRange(0), metavar="N", help="So many may wait; 0: nobody.")
@option("--queue-timeout", "queue_timeout_s", type=_SECONDS, metavar="S", help="Nobody waits longer.")
@option("--request-timeout", "request_timeout_s", type=_SECONDS, metavar="S", help="No request takes longer.")
@option("--stall-timeout", "stall_s", type=_SECONDS, metavar="S", help="A reader that takes nothing is dropped.")
@option("--silence-timeout", "silence_s", type=_SECONDS, hidden=True, help="A silent engine is given up.")
@option("--only", multiple=True, metavar="CASES", help="Names, or how they begin: leave-queued,order.")
@option("--list", "listing", is_flag=True, help="The cases and their claims.")
@option("--streams", default=1000, type=click.IntRange(1, 100_000), metavar="N", help="Compared byte for byte. [1000]")
@option("--rounds", default=1, type=click.IntRange(1, 1000), metavar="N", help="Of everything. [1]")
@option("--patience", "patience_s", default=20.0, type=_SECONDS, metavar="S", help="For a promise to come due. [20]")
@option("--model", metavar="NAME", help="To ask for. [the first one listed]")
@option("--key", envvar="HEADGATE_API_KEY", metavar="KEY", help="API key. [$HEADGATE_API_KEY]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a script.")
@help_all
def conformance(url: str | None, as_json: bool, listing: bool, **given: Any) -> None:
    """Try whether a gateway does what a gateway should.

    It should keep its slots, cancel, refuse and stream as it says. Any OpenAI-compatible gateway can be tried: one
    that is started here with a scripted engine behind it (--start), or one that runs at URL. Exit status: 0 all that
    applies is kept, 1 something isn't, 2 bad arguments, 3 it could not be tried.
    """
    from headgate.workbench.bench.target import Unreachable, address_of
    from headgate.workbench.conformance import claims, run
    from headgate.workbench.conformance.peers import PEERS, by_command
    from headgate.workbench.conformance.promises import Promises

    try:
        chosen = claims.chosen([name.strip() for said in given["only"] for name in said.split(",") if name.strip()])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if listing:
        for claim in chosen:
            click.echo(f"{claim.name:<27}{claim.says}")
        return
    start, command = given["start"], given["start_command"]
    if sum(said is not None for said in (url, start, command)) != 1:
        raise click.UsageError("give one of URL, --start NAME, --start-command CMD")
    if url is None and (given["engine_port"] or given["engine_metrics"]):
        raise click.UsageError("--engine-port and --engine-metrics go with a URL")
    if given["engine_port"] and given["engine_metrics"]:
        raise click.UsageError("give --engine-port or --engine-metrics, not both")
    if url is not None:
        try:
            url = address_of(url).url
        except Unreachable as error:
            raise click.UsageError(str(error)) from None
    promises = Promises(**{name: given[name] for name in Promises.__struct_fields__ if name in given})
    how = PEERS[start] if start else partial(by_command, command) if command else None
    trial = run.Trial(
        claims=chosen,
        promises=promises,
        name=start or url or command.split()[0].rsplit("/", 1)[-1],
        again=redacted(_without_only(sys.argv[1:])),
        how=how,
        url=url,
        environments=tuple(Path(name) for name in given["environments"] or (".venv-peers", ".venv-litellm")),
        **{
            name: given[name]
            for name in ("engine_port", "engine_metrics", "model", "key", "streams", "patience_s", "rounds")
        },
    )
    sys.exit(run.run(trial, as_json=as_json))


def _without_only(argv: list[str]) -> list[str]:
    """The command line but for what it is narrowed by."""
    kept: list[str] = []
    skip = False
    for argument in argv:
        if not skip and argument != "--only" and not argument.startswith("--only="):
            kept.append(argument)
        skip = not skip and argument == "--only"
    return kept
