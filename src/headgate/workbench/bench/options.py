"""The flags of a load, which ``bench`` and ``compare`` share, and the job that they come to.

Imported with the command line: it must load nothing but click. What a flag means is checked here, so that whatever is
wrong is one line and exit status 2 before anything is sent.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from headgate.workbench.bench.raw import Plan
    from headgate.workbench.bench.run import Job

_F = TypeVar("_F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
LONGEST_S = 86_400.0
_SECONDS = click.FloatRange(min=0, max=LONGEST_S, min_open=True)
_MANY = click.IntRange(1, 10_000_000)

DURATION_S = 30.0

SECRET_FLAGS = ("--key", "--caller", "--header", "--engine-key")
"""Their values are left out of the command line that is kept."""

_SECRET_SETTING = re.compile(r"(.*key\s*=).*", re.IGNORECASE | re.DOTALL)
"""``--set api_key=…``."""


class _Plain(click.Option):
    """A flag whose help is what it says itself: ranges would take a screen of their own."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        return {}


def option(*names: str, **more: Any) -> Callable[[_F], _F]:
    """A flag; ``hidden=True`` is shown by ``--help-all`` only."""
    return click.option(*names, cls=_Plain, **more)


LOAD = (
    option(
        "--arrivals",
        type=click.Choice(["poisson", "constant"]),
        default="poisson",
        metavar="KIND",
        help="Of an open loop: poisson or constant. [poisson]",
    ),
    option(
        "--think", "think_s", default=0.0, type=click.FloatRange(0, 3600), hidden=True, help="Seconds a user waits."
    ),
    option(
        "--workload",
        type=click.Choice(["fixed", "mixed", "shared-prefix", "conversation"]),
        default="fixed",
        metavar="KIND",
        help="fixed, mixed, shared-prefix or conversation. [fixed]",
    ),
    option("--trace", type=_FILE, metavar="FILE", help="Replay it: a JSON line for each request."),
    option("--speed", default=1.0, type=click.FloatRange(0.001, 1000), hidden=True, help="Of the trace's clock. [1]"),
    option("--input", "input_tokens", default=200, type=_MANY, metavar="TOKENS", help="Of a prompt. [200]"),
    option("--output", "output_tokens", default=200, type=_MANY, metavar="TOKENS", help="Of an answer. [200]"),
    option("--turns", default=5, type=click.IntRange(1, 1000), hidden=True, help="Of a conversation. [5]"),
    option("--prefix-tokens", default=1000, type=_MANY, hidden=True, help="Of a shared prefix. [1000]"),
    option("--prefixes", default=1, type=click.IntRange(1, 10_000), hidden=True, help="Different ones. [1]"),
    option(
        "--api",
        type=click.Choice(["chat", "completions"]),
        default="chat",
        metavar="API",
        help="chat or completions. [chat]",
    ),
    option("--stream/--whole", default=True, help="How answers come. [stream]"),
    option("--duration", "duration_s", type=_SECONDS, metavar="S", help="For how long requests are due. [30]"),
    option(
        "--warm-up",
        "warm_s",
        default=0.0,
        type=click.FloatRange(0, 86_400),
        hidden=True,
        help="Seconds of the duration that count in no figure. [0]",
    ),
    option("--requests", default=100_000, type=_MANY, metavar="N", help="At most so many. [100000]"),
    option("--timeout", "timeout_s", default=300.0, type=_SECONDS, hidden=True, help="Of one request. [300]"),
    option("--drain", "drain_s", default=60.0, type=_SECONDS, hidden=True, help="Longest wait for the last. [60]"),
    option(
        "--starved-after",
        "starved_s",
        default=30.0,
        type=_SECONDS,
        hidden=True,
        help="Seconds of waiting after which one counts as starved. [30]",
    ),
    option("--max-in-flight", default=4096, type=_MANY, hidden=True, help="At most so many, open loop. [4096]"),
    option("--obey-retry-after", is_flag=True, help="Who is refused comes back when told to."),
    option("--patience", "patience_s", default=60.0, type=_SECONDS, hidden=True, help="Of one who comes back. [60]"),
    option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="Repeat a run. [drawn, and shown]"),
    option("--model", metavar="NAME", help="Which. [the first in /v1/models]"),
    option("--key", envvar="HEADGATE_API_KEY", metavar="KEY", help="API key. [$HEADGATE_API_KEY]"),
    option("--caller", multiple=True, metavar="NAME[:SHARE][=KEY]", help="One of several callers; repeatable."),
    option(
        "--callers", "callers_file", type=_FILE, metavar="FILE", hidden=True, help="The same as TOML, with headers."
    ),
    option("--as-users", is_flag=True, hidden=True, help="Send callers' names as x-headgate-user."),
    option("--header", multiple=True, metavar="'NAME: VALUE'", hidden=True, help="Sent by everyone; repeatable."),
    option("--extra", metavar="JSON", hidden=True, help='Fields added to each body: {"top_p": 1}.'),
    option(
        "--ignore-eos",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        hidden=True,
        help="Have answers go on to their length. [auto: where the engine takes it]",
    ),
    option("--slo", "slo_file", type=_FILE, metavar="FILE", help="TOML. [latency p95 5 s, errors 0.1 %]"),
)


def load_options(command: _F) -> _F:
    """All of them, in this order."""
    for add in reversed(LOAD):
        command = add(command)
    return command


def help_all(command: _F) -> _F:
    """``--help-all``: the flags that ``--help`` leaves out too."""
    return click.option(
        "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Every flag."
    )(command)


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    for parameter in ctx.command.params:
        if isinstance(parameter, click.Option):
            parameter.hidden = False
    click.echo(ctx.get_help())
    ctx.exit()


def job(given: dict[str, Any], argv: Sequence[str]) -> Job:
    """The job that the flags of ``LOAD``, ``rate`` and ``users`` come to.

    Raises:
        click.UsageError: one line.
    """
    import msgspec

    from headgate.workbench.bench import callers, slo, trace
    from headgate.workbench.bench.run import Job

    try:
        entries = trace.read(given["trace"]) if given["trace"] else []
        people = _callers(given)
        named = {person.name for person in people} if given["caller"] or given["callers_file"] else set()
        for entry in entries:
            if entry.caller and named and entry.caller not in named:
                raise trace.BadTrace(f"{given['trace']} has a caller {entry.caller!r} who is not among those given")
        objectives = slo.read(given["slo_file"]) if given["slo_file"] else list(slo.DEFAULT)
        extra = msgspec.json.decode(given["extra"], type=dict[str, Any]) if given["extra"] else {}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise click.UsageError(f"--extra takes a JSON object: {error}") from None
    except (trace.BadTrace, callers.BadCaller, slo.BadSlo) as error:
        raise click.UsageError(str(error)) from None
    return Job(
        plan=_plan(given, people, len(entries), entries[-1].arrival_s if entries else 0.0),
        callers=people,
        objectives=objectives,
        entries=entries,
        model=given["model"],
        ignore_eos=given["ignore_eos"],
        extra=extra,
        command=redacted(argv),
    )


def _plan(given: dict[str, Any], people: Sequence[Any], entries: int, latest_s: float) -> Plan:
    from headgate.workbench.bench import arrivals
    from headgate.workbench.bench.raw import Plan

    rate, users = given["rate"], given["users"]
    duration_s = given["duration_s"] or DURATION_S
    if rate is not None and users is not None:
        raise click.UsageError("--rate is an open loop and --users a closed one: give one of them")
    if rate is None and users is None and not entries:
        users = 8
    if rate is None and users is None and given["duration_s"] is None:
        duration_s = latest_s / given["speed"] + 1.0  # all of the trace
        if duration_s > LONGEST_S:
            raise click.UsageError(
                f"the last request of the trace is due after {latest_s:,.0f} s: arrival_s counts from the trace's "
                "start. --speed shortens the time, --duration leaves out what comes later."
            )
    if rate is not None:
        try:
            arrivals.shape(rate, duration_s)
        except arrivals.BadShape as error:
            raise click.UsageError(f"--rate: {error}") from None
    # Below 2^32, so that it can be typed again.
    seed = given["seed"] if given["seed"] is not None else secrets.randbelow(2**32)
    requests = min(given["requests"], entries) if entries else given["requests"]
    names = (
        *("api", "stream", "arrivals", "think_s", "speed", "workload", "input_tokens", "output_tokens"),
        *("turns", "prefix_tokens", "prefixes", "timeout_s", "drain_s", "max_in_flight", "obey_retry_after"),
        *("patience_s", "warm_s", "starved_s"),
    )
    if given["warm_s"] >= duration_s:
        raise click.UsageError(f"--warm-up takes less than the duration, which is {duration_s:g} s")
    return Plan(
        rate=rate,
        users=users,
        duration_s=duration_s,
        requests=requests,
        trace=str(given["trace"]) if given["trace"] else None,
        seed=seed,
        salt=str(seed),
        callers=[person.plan() for person in people],
        **{name: given[name] for name in names},
    )


def _callers(given: dict[str, Any]) -> list[Any]:
    from headgate.workbench.bench import callers
    from headgate.workbench.bench.callers import Caller

    everyones = {}
    for said in given["header"]:
        name, colon, value = said.partition(":")
        if not colon or not name.strip():
            raise click.UsageError("--header takes 'NAME: VALUE'")
        everyones[name.strip()] = value.strip()
    if given["caller"] and given["callers_file"]:
        raise click.UsageError("give --caller or --callers, not both")
    if given["callers_file"]:
        people = callers.read(given["callers_file"])
    elif given["caller"]:
        people = [callers.parse(said, given["key"]) for said in given["caller"]]
    else:
        people = [Caller()]
    if given["as_users"]:
        people = [replace(p, headers={"x-headgate-user": p.name, **p.headers}) for p in people]
    people = [replace(p, key=p.key or given["key"], headers=everyones | p.headers) for p in people]
    callers.check(people)
    return people


def redacted(argv: Sequence[str]) -> str:
    """A command line without what is nobody's business."""
    shown: list[str] = []
    hide = False
    for argument in argv:
        flag, equals, _ = argument.partition("=")
        if hide:
            shown.append("…")
        elif flag in SECRET_FLAGS and equals:
            shown.append(f"{flag}=…")
        elif found := _SECRET_SETTING.fullmatch(argument):
            shown.append(f"{found[1]}…")
        else:
            shown.append(shlex.quote(argument))
        hide = not hide and argument in SECRET_FLAGS
    return " ".join(["headgate", *shown])
