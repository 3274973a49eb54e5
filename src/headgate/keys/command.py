"""``headgate keys`` on the command line. A secret is printed once, when it is made, and is kept nowhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import click

from headgate.keys import edit, store
from headgate.keys.records import RANKS, Key, KeysError, Role, hash_of, new_secret, parse

VARIABLE = "HEADGATE_API_KEYS_FILE"

_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def _common(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--json", "as_json", is_flag=True, help="One JSON object, for a script.")(command)
    return click.option(
        "--file",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=VARIABLE,
        default=Path("keys.toml"),
        show_default=True,
        metavar="FILE",
        help=f"The keys file (or {VARIABLE}).",
        callback=lambda _, __, path: Path(os.path.expanduser(path)),  # as the setting: a shell leaves `--file=~/x`
    )(command)


@click.group(context_settings={"max_content_width": 110})
def keys() -> None:
    """Make, list and revoke the keys of API_KEYS_FILE.

    A running gateway takes changes within a second or two. Exit status: 0, or 1 where the file can't be taken.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice([str(role) for role in Role]), default="user", show_default=True, help="What it is for."
)
@click.option("--priority", default="normal", show_default=True, help="The most urgent that it may ask for.")
@click.option("--weight", type=float, help="Its share against other keys. [1]")
@click.option("--requests-per-min", type=float, metavar="N", help="Requests a minute.")
@click.option("--requests-burst", type=float, metavar="N", help="Requests at once. [those of a minute]")
@click.option("--tokens-per-min", type=float, metavar="N", help="Tokens a minute, prompt and answer.")
@click.option("--tokens-burst", type=float, metavar="N", help="Tokens at once. [those of a minute]")
@click.option("--max-active", type=int, metavar="N", help="Slots that it may hold at once.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model that it may use; again for more. [all]")
@click.option("--days", type=click.IntRange(1, 36500), metavar="N", help="It expires after so many days. [never]")
@_common
def add(name: str, path: Path, as_json: bool, **limits: Any) -> None:
    """Make a key and print it, this once."""
    secret = new_secret()
    days = limits.pop("days")
    fields: dict[str, object] = {"hash": hash_of(secret), "role": limits.pop("role")}
    fields["priority"] = _priority(limits.pop("priority"))
    models = limits.pop("models")
    fields |= limits | {"models": list(models) or None}
    if days is not None:
        until = datetime.fromtimestamp(time.time(), UTC).replace(microsecond=0) + timedelta(days=days)
        fields["expires"] = edit.bare(f"{until:%Y-%m-%dT%H:%M:%SZ}")
    _change(path, lambda text: edit.add(text, name, fields), as_json)
    _show_secret(name, secret, path, as_json)


@keys.command()
@click.argument("name")
@_common
def rotate(name: str, path: Path, as_json: bool) -> None:
    """Give a key a new secret and print it; the ones it had stay good until `revoke --old`."""
    secret = new_secret()

    def added(text: str) -> str:
        return edit.replace_hashes(text, name, [*_hashes(text, name), hash_of(secret)])

    _change(path, added, as_json)
    _show_secret(name, secret, path, as_json)


@keys.command()
@click.argument("name")
@click.option("--old", is_flag=True, help="Only the secrets before its newest.")
@_common
def revoke(name: str, old: bool, path: Path, as_json: bool) -> None:
    """Take a key away, or its old secrets."""

    def revoked(text: str) -> str:
        return edit.replace_hashes(text, name, _hashes(text, name)[-1:]) if old else edit.remove(text, name)

    _change(path, revoked, as_json)
    what = "old secrets revoked" if old else "revoked"
    click.echo(json.dumps({"name": name, "file": str(path), "revoked": "old" if old else "all"}) if as_json else what)


@keys.command("list")
@_common
def list_(path: Path, as_json: bool) -> None:
    """Who there is, and with which limits. Secrets can't be shown: nobody has them."""
    try:
        found = store.load(path)
    except KeysError as error:
        _fail(path, error, as_json)
    rows = [_row(key) for key in found.values()]
    if as_json:
        click.echo(json.dumps({"file": str(path), "keys": rows}))
    elif not rows:
        click.echo(f"{path} has no keys.")
    else:
        _table(rows)


def _row(key: Key) -> dict[str, object]:
    words = {rank: word for word, rank in RANKS.items()}
    return {
        "name": key.name,
        "role": str(key.role),
        "priority": words.get(key.rank_least, key.rank_least),
        "weight": key.weight,
        "requests_per_min": key.requests_per_min,
        "requests_burst": key.requests_burst,
        "tokens_per_min": key.tokens_per_min,
        "tokens_burst": key.tokens_burst,
        "max_active": key.max_active,
        "models": None if key.models is None else sorted(key.models),
        "expires": _time(key.expires_at),
        "expired": key.expires_at <= time.time(),
        "secrets": len(key.digests),
    }


def _time(at: float) -> str | None:
    if at == inf:
        return None
    within = min(max(at, datetime.min.replace(tzinfo=UTC).timestamp()), _LAST)  # of the years that a time can say
    return f"{datetime.fromtimestamp(within, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _table(rows: list[dict[str, object]]) -> None:
    heads = {"name": "NAME", "role": "ROLE", "priority": "PRIORITY", "weight": "WEIGHT", "requests_per_min": "REQ/MIN"}
    heads |= {"tokens_per_min": "TOK/MIN", "max_active": "SLOTS", "models": "MODELS", "expires": "EXPIRES"}
    lines = [list(heads.values())]
    for row in rows:
        lines.append([_cell(row[name]) for name in heads])
        if row["expired"]:
            lines[-1][-1] += " (expired)"
        if row["secrets"] != 1:
            lines[-1][0] += f" ({row['secrets']} secrets)"
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _priority(text: str) -> object:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else text


def _hashes(text: str, name: str) -> list[str]:
    key = parse(text).get(name)
    if key is None:
        raise KeysError(f"there is no key {name[:80]!r}.")
    return edit.hashes(key)


def _change(path: Path, to: Callable[[str], str], as_json: bool) -> None:
    try:
        store.change(path, to)
    except KeysError as error:
        _fail(path, error, as_json)


def _fail(path: Path, error: KeysError, as_json: bool) -> Any:
    if as_json:
        click.echo(json.dumps({"file": str(path), "error": str(error)}))
    click.echo(f"headgate: {path}: {error}", err=True)
    sys.exit(1)


def _show_secret(name: str, secret: str, path: Path, as_json: bool) -> None:
    if as_json:
        told: Mapping[str, object] = {"name": name, "key": secret, "file": str(path)}
        click.echo(json.dumps(told))
        return
    click.echo(secret)
    note = f"This is the key `{name}`. It is shown this once: only its hash is in {path}."
    if os.environ.get(VARIABLE) is None:
        note += f"\nThe gateway reads the file with --api-keys-file {path} (or {VARIABLE})."
    click.echo(note, err=True)
