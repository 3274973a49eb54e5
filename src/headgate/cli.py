"""The ``headgate`` command. Imports wait until a command needs them: ``--help`` should not load a web server."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate import __version__, told_version
from headgate.keys import KeysError, Role, store
from headgate.keys.command import keys
from headgate.workbench.bench.command import bench
from headgate.workbench.compare.command import compare
from headgate.workbench.conformance.command import conformance
from headgate.workbench.report.command import report

if TYPE_CHECKING:
    from headgate.app import Gateway
    from headgate.settings import Settings

COMMON = frozenset(
    (
        *("host", "port", "engine", "engine_urls", "engine_args", "served_model_name", "api_key"),
        *("max_active", "queue_mode", "queue_max", "queue_timeout_s", "request_timeout_s"),
    )
)
"""The flags that ``serve --help`` shows; ``--help-all`` shows every one."""


class _WithSettings(click.Command):
    """A command with a flag for every setting, read from ``Settings`` itself."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_setting_flags()]


def _flag(name: str) -> str:
    """A setting on the command line, where the model is an argument."""
    return "MODEL" if name == "model" else f"--{name.replace('_', '-')}"


def _setting_flags() -> list[click.Parameter]:
    from headgate.settings import Settings, default_of

    flags: list[click.Parameter] = []
    for name, field in Settings.model_fields.items():
        if name == "model":
            continue
        help_ = re.split(r"[;:.](?: |$)", field.description or "")[0]
        help_ = f"{help_}. [{default_of(name)}]"
        flags.append(click.Option([_flag(name), name], help=help_, metavar="VALUE", hidden=name not in COMMON))
    return flags


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(told_version(), message="headgate %(version)s")
def main() -> None:
    """Headgate: an always-on gateway in front of LLM engines."""
    _open_standard_streams()


def _open_standard_streams() -> None:
    """Give each of the three that is closed ``/dev/null`` (`2>&-`, and what some supervisors do).

    Python has None for it then, and the next file or socket that is opened gets its number: whoever writes to standard
    error would write to a client.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            os.set_inheritable(number, True)  # as the standard streams are: engines get them, and `simulate`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign ends no command


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from headgate.settings import Settings, default_of

    formatter = ctx.make_formatter()
    with formatter.section("Every setting, and its default"):
        formatter.write_dl(
            [
                (_flag(name), f"{field.description} [{default_of(name)}]")
                for name, field in Settings.model_fields.items()
            ]
        )
    click.echo(formatter.getvalue().rstrip())
    ctx.exit()


@main.command(cls=_WithSettings)
@click.argument("model", required=False)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (headgate.toml).")
@click.option("--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Every flag.")
def serve(model: str | None, config: Path | None, **flags: Any) -> None:
    """Run the gateway, and an engine behind it.

    MODEL is started with `vllm serve`; without it (and without --engine-urls) the simulated engine answers. Each flag
    is also a setting in headgate.toml and in the environment: --queue-max is HEADGATE_QUEUE_MAX. Defaults are in
    brackets.
    """
    from headgate import app
    from headgate import settings as settings_

    try:
        settings = settings_.load({"model": model, **flags}, os.environ, config)
        status = app.serve(settings, announce=_announce)
    except settings_.SettingsError as error:
        click.echo(f"headgate: {error}", err=True)
        status = app.EXIT_BAD_SETTINGS
    except app.StartError as error:
        click.echo(f"headgate: {error}", err=True)
        status = app.EXIT_START_FAILED
    sys.exit(status)


@main.command(cls=_WithSettings)
@click.argument("model", required=False)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (headgate.toml).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a script.")
@click.option("--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Every flag.")
def check(model: str | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Say what `headgate serve` would do here, and what is amiss.

    It takes the flags of `serve`. Nothing is started, downloaded or written. Exit status: 0 it will work, 1 something
    fails, 2 bad settings.
    """
    from headgate.workbench import check as check_

    sys.exit(check_.run(model, flags, as_json, config))


@main.command("stop-engine")
@click.option("--port", type=click.IntRange(0, 65535), help="The gateway's own port. [its setting, or 8080]")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where it is written down. [the setting]")
def stop_engine(port: int | None, cache_dir: Path | None) -> None:
    """Stop the engine that a gateway with ENGINE_KEEP left running.

    While a gateway uses it, end that first. Exit status: 0 it has stopped, 1 there is none or a gateway has it, 2 bad
    settings.
    """
    import asyncio

    from headgate.app import keep_of
    from headgate.pool.keep import InUse
    from headgate.settings import SettingsError, load

    try:
        settings = load({"port": port, "cache_dir": cache_dir}, os.environ)
    except SettingsError as error:
        click.echo(f"headgate: {error}", err=True)
        sys.exit(2)
    try:
        how = asyncio.run(keep_of(settings, "e0").stop(grace_s=15.0))
    except InUse as error:
        click.echo(f"headgate: {error}. End the gateway first: `headgate serve` on {settings.port}.", err=True)
        sys.exit(1)
    click.echo(
        f"The engine has stopped: {how}" if how else f"No engine was left running by a gateway on {settings.port}."
    )
    sys.exit(0 if how else 1)


@main.command()
@click.argument("url", default="http://127.0.0.1:8080")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON picture and end.")
@click.option(
    "--key",
    envvar="HEADGATE_API_KEY",
    metavar="KEY",
    help="For a gateway with OPS_AUTH=key: an API key, or the admin's. [$HEADGATE_API_KEY]",
)
def top(url: str, interval_s: float, once: bool, as_json: bool, key: str | None) -> None:
    """Watch a gateway live: slots, line, engines, tokens, refusals.

    URL is http://127.0.0.1:8080 unless given. Exit status: 0, or 1 where the gateway can't be seen.
    """
    from headgate.workbench import top as top_

    sys.exit(top_.run(url, interval_s, once, as_json, key or None))


main.add_command(bench)
main.add_command(compare)
main.add_command(report)
main.add_command(conformance)
main.add_command(keys)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Run the simulated engine by itself, or fit it to a real one.

    `headgate simulate --help` has its flags. `headgate simulate --fit RAW...` fits its times to a real engine's
    `headgate bench` results.
    """
    module = "headgate.simulator"
    if "--fit" in arguments:
        module, arguments = "headgate.workbench.fitting", tuple(said for said in arguments if said != "--fit")
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  a process of its own


def _announce(gateway: Gateway, url: str) -> None:
    """What a person sees at the start. Nobody may be there to see it, and then the gateway serves all the same."""
    from headgate.settings import PREFIX, unread

    log = logging.getLogger(__name__)
    try:
        _say(gateway, url)
        sys.stdout.flush()
    except OSError as error:
        log.warning("what is said at a start can't be written to standard output: %s", error.strerror)
        with open(os.devnull, "w") as nowhere:  # what it still holds would be tried again at the end
            os.dup2(nowhere.fileno(), 1)
    if ignored := unread(os.environ, gateway.settings.model_fields_set):
        log.warning(
            "not read from the environment, where settings begin with %s: %s; set %s",
            PREFIX,
            ", ".join(ignored),
            ", ".join(f"{PREFIX}{name}" for name in ignored),
        )


def _say(gateway: Gateway, url: str) -> None:
    """On standard output; the log is on standard error."""
    from headgate.app import is_loopback
    from headgate.settings import SIMULATED_MODEL, Engine

    settings = gateway.settings
    kind = settings.engine_kind
    say = click.echo
    say(f"Headgate {__version__} listens on {url}")
    here = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    say(f"  page     {here}/   (slots, line and engines, live)")
    if kind is Engine.SIMULATED:
        say(f"  engine   SIMULATED: it makes up text, with no GPU and no model, as `{SIMULATED_MODEL}`")
        say("           for a real one: headgate serve Qwen/Qwen2.5-0.5B-Instruct   (needs vLLM and a GPU)")
    elif kind is Engine.REMOTE:
        say(f"  engines  {', '.join(settings.engine_urls)}")
    else:
        say(f"  engine   vllm serve {settings.model}   (loading; requests wait for it)")
    name = settings.served_model_name or settings.model or (SIMULATED_MODEL if kind is Engine.SIMULATED else "")
    messages = '[{"role": "user", "content": "Hello"}]'
    key = _key_header(settings)
    say(f"  try      curl -N {here}/v1/chat/completions -H 'content-type: application/json' {key}-d \\")
    say(f"""             '{{"model": "{name or "MODEL"}", "stream": true, "messages": {messages}}}'""")
    if not name:
        say(f"           with a MODEL of {here}/v1/models")
    if settings.admin_key is None and not _has_admin(settings.api_keys_file):
        say(f"  admin    key made for this run: {gateway.admin_key}")
    is_open = settings.api_key is None and settings.api_keys_file is None
    if is_open and not is_loopback(settings.host):
        click.echo(
            f"warning: {settings.host} is open to others and no API key is set (HEADGATE_API_KEY)",
            err=True,
        )


def _key_header(settings: Settings) -> str:
    """What curl needs where a key is asked for: where the key may be found, and never the key."""
    if settings.api_key is not None:
        return '-H "authorization: Bearer $HEADGATE_API_KEY" '
    return '-H "authorization: Bearer hg-…" ' if settings.api_keys_file is not None else ""


def _has_admin(keys_file: Path | None) -> bool:
    """Whether somebody has an admin's key already: then none need be told to all who can read the log."""
    if keys_file is None:
        return False
    try:
        found = store.load(keys_file).values()
    except KeysError:  # it was right a moment ago; the gateway goes on with what it read
        return False
    return any(key.role is Role.ADMIN and time.time() < key.expires_at for key in found)
