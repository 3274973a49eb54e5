"""The ``headgate`` command. Imports wait until a command needs them: ``--help`` should not load a web server."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate import __version__

if TYPE_CHECKING:
    from headgate.app import Gateway

COMMON = frozenset(
    (
        *("host", "port", "engine", "engine_urls", "engine_args", "served_model_name", "api_key"),
        *("max_active", "queue_mode", "queue_max", "queue_timeout_s", "request_timeout_s"),
    )
)
"""The flags that ``serve --help`` shows; ``--help-all`` shows every one."""


class _Serve(click.Command):
    """``serve`` with a flag for every setting, read from ``Settings`` itself."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_setting_flags()]


def _setting_flags() -> list[click.Parameter]:
    from headgate.settings import Settings

    flags: list[click.Parameter] = []
    for name, field in Settings.model_fields.items():
        if name == "model":
            continue
        flag = f"--{name.replace('_', '-')}"
        help_ = re.split(r"[;:.](?: |$)", field.description or "")[0]
        flags.append(click.Option([flag, name], help=help_, metavar="VALUE", hidden=name not in COMMON))
    return flags


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="headgate %(version)s")
def main() -> None:
    """Headgate: an always-on gateway in front of LLM engines."""


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from headgate.settings import Settings

    formatter = ctx.make_formatter()
    with formatter.section("Every setting"):
        formatter.write_dl(
            [(f"--{name.replace('_', '-')}", field.description or "") for name, field in Settings.model_fields.items()]
        )
    click.echo(formatter.getvalue().rstrip())
    ctx.exit()


@main.command(cls=_Serve)
@click.argument("model", required=False)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (headgate.toml).")
@click.option("--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Every flag.")
def serve(model: str | None, config: Path | None, **flags: Any) -> None:
    """Run the gateway; MODEL is started behind it with `vllm serve`.

    Without MODEL (and without --engine-urls) the simulated engine answers. Each flag is also a setting in
    headgate.toml and in the environment: --queue-max is HEADGATE_QUEUE_MAX.
    """
    from headgate import settings as settings_

    from headgate import app

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


def _announce(gateway: Gateway, url: str) -> None:
    """What a person sees at the start, on standard output; the log is on standard error."""
    from headgate.settings import SIMULATED_MODEL, Engine

    settings = gateway.settings
    kind = settings.engine_kind
    say = click.echo
    say(f"Headgate {__version__} listens on {url}")
    if kind is Engine.SIMULATED:
        say(f"  engine   SIMULATED: it makes up text, with no GPU and no model, as `{SIMULATED_MODEL}`")
        say("           for a real one: headgate serve Qwen/Qwen2.5-0.5B-Instruct   (needs vLLM and a GPU)")
    elif kind is Engine.REMOTE:
        say(f"  engines  {', '.join(settings.engine_urls)}")
    else:
        say(f"  engine   vllm serve {settings.model}   (loading; requests wait for it)")
    name = settings.served_model_name or settings.model or (SIMULATED_MODEL if kind is Engine.SIMULATED else "MODEL")
    messages = '[{"role": "user", "content": "Hello"}]'
    say(f"  try      curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d \\")
    say(f"""             '{{"model": "{name}", "stream": true, "messages": {messages}}}'""")
    if settings.admin_key is None:
        say(f"  admin    key made for this run: {gateway.admin_key}")
    if settings.api_key is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(f"warning: {settings.host} is open to others and no API key is set (HEADGATE_API_KEY)", err=True)
    sys.stdout.flush()
