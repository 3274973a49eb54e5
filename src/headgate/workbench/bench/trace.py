"""A trace: requests as they once came, to be sent again. One JSON line for each.

    {"arrival_s": 0.0, "prompt_tokens": 812, "output_tokens": 64}
    {"arrival_s": 0.4, "prompt": "What is a headgate?", "output_tokens": 120, "caller": "alice"}

Separate from ``workload`` because it is a file format that others write.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import msgspec

MAX_TOKENS = 10_000_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One request; either ``prompt`` or how long one is to be made up."""

    arrival_s: float
    output_tokens: int
    prompt_tokens: int | None = None
    prompt: str | None = None
    caller: str | None = None


class BadTrace(ValueError):
    """One line that says what is wrong, and where."""


_entry = msgspec.json.Decoder(Entry)


def read(path: Path) -> list[Entry]:
    """The requests of a file, by arrival.

    Raises:
        BadTrace: it can't be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadTrace(f"{path}: {error.strerror}") from None
    entries = [_read(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise BadTrace(f"{path} has no request in it")
    return sorted(entries, key=lambda entry: entry.arrival_s)


def _read(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = _entry.decode(line)
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadTrace(f"{path}, line {number}: {error}") from None
    if not isfinite(entry.arrival_s) or entry.arrival_s < 0:
        raise BadTrace(f"{path}, line {number}: arrival_s must be a number of at least 0")
    if not 1 <= entry.output_tokens <= MAX_TOKENS:
        raise BadTrace(f"{path}, line {number}: output_tokens must be at least 1")
    if entry.prompt is None and not 1 <= (entry.prompt_tokens or 0) <= MAX_TOKENS:
        raise BadTrace(f"{path}, line {number}: either prompt or prompt_tokens is needed")
    return entry
