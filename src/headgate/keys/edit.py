"""Changes to the text of a keys file that leave all the rest of it as it was, comments among it.

Python reads TOML and can't write it. Here whole tables are put at the end and taken out, or their ``hash`` line is
replaced; what comes out is read again and held against what was meant, so that an unusual file is refused and never
spoiled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from headgate.keys.records import Key, KeysError, check_name, parse

_TABLE = re.compile(r"\s*\[")
_HASH = re.compile(r"""(?P<before>\s*hash\s*=\s*)(?:"[^"]*"|'[^']*'|\[[^\]]*\])(?P<after>.*)""", re.DOTALL)

Fields = Mapping[str, object]


def add(text: str, name: str, fields: Fields) -> str:
    """With one more key.

    Raises:
        KeysError: the name is taken, or a field can't be.
    """
    if check_name(name) in parse(text):
        raise KeysError(f"there is a key `{name}` already; `headgate keys rotate {name}` gives it a new secret.")
    lines = [f"{field} = {_toml(value)}" for field, value in fields.items() if value is not None]
    before = f"{text.rstrip()}\n\n" if text.strip() else ""
    after = f"{before}[keys.{_part(name)}]\n" + "\n".join(lines) + "\n"
    parse(after)
    return after


def remove(text: str, name: str) -> str:
    """Without a key.

    Raises:
        KeysError: there is no such key, or it stands in the file in a way that isn't understood here.
    """
    expected = _known(text, name)
    del expected[name]
    lines = text.splitlines(keepends=True)
    start, end = _table(lines, name)
    return _checked("".join(lines[:start] + lines[end:]), expected, name)


def replace_hashes(text: str, name: str, hashes: list[str]) -> str:
    """With these hashes for a key, whose other fields stay.

    Raises:
        KeysError: as ``remove``.
    """
    expected = _known(text, name)
    lines = text.splitlines(keepends=True)
    start, end = _table(lines, name)
    of_hash = [(i, found) for i in range(start + 1, end) if (found := _HASH.match(lines[i]))]
    if len(of_hash) != 1:
        raise _by_hand(name)
    ((at, found),) = of_hash
    lines[at] = f"{found['before']}{_toml(hashes[0] if len(hashes) == 1 else hashes)}{found['after']}"
    try:
        after = parse("".join(lines))
    except KeysError:
        raise _by_hand(name) from None
    if after.keys() != expected.keys() or any(after[other] != expected[other] for other in expected if other != name):
        raise _by_hand(name)
    return "".join(lines)


def hashes(key: Key) -> list[str]:
    """What the file says of its secrets, the newest last."""
    return [f"sha256:{each.hex()}" for each in key.digests]


def _known(text: str, name: str) -> dict[str, Key]:
    keys = parse(text)
    if name not in keys:
        raise KeysError(f"there is no key {name[:80]!r}.")
    return keys


def _table(lines: list[str], name: str) -> tuple[int, int]:
    """The lines from a key's head to the next table's; its own trailing blank lines among them."""
    head = re.compile(rf"""\s*\[\s*keys\s*\.\s*(?:{re.escape(name)}|"{re.escape(name)}"|'{re.escape(name)}')\s*\]""")
    heads = [i for i, line in enumerate(lines) if head.match(line)]
    if len(heads) != 1:
        raise _by_hand(name)
    start = heads[0]
    end = next((i for i in range(start + 1, len(lines)) if _TABLE.match(lines[i])), len(lines))
    while end < len(lines) and end - 1 > start and lines[end - 1].lstrip().startswith("#"):
        end -= 1  # comments right above the next table are the next table's
    return start, end


def _checked(text: str, expected: dict[str, Key], name: str) -> str:
    try:
        after = parse(text)
    except KeysError:
        raise _by_hand(name) from None
    if after != expected:
        raise _by_hand(name)
    return text


def _by_hand(name: str) -> KeysError:
    return KeysError(f"`{name}` stands in the file in an unusual way; change it by hand.")


def _part(name: str) -> str:
    return name if re.match(r"[A-Za-z0-9_-]+\Z", name) else f'"{name}"'


def _toml(value: object) -> str:
    """One value; times come as the text that TOML has for them."""
    if isinstance(value, _Bare):
        return value.text
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    assert isinstance(value, int | float)
    return str(int(value)) if float(value).is_integer() else repr(value)


class _Bare:
    """Text that is TOML already."""

    def __init__(self, text: str) -> None:
        self.text = text


def bare(text: str) -> object:
    """A time, as TOML writes it: without quotes."""
    return _Bare(text)
