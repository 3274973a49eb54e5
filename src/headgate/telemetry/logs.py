"""The log: one line for each request at its end, and the gateway's own lines, as JSON or for a terminal.

A request's line does not go through ``logging`` (about 15 µs a record): it is encoded and written with the others
of the same moment, in one call each. Everything else does, so libraries' warnings land in the same stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol, TextIO

import msgspec

FLUSH_S = 0.02
"""Lines of one write: each write is a system call."""

_encoder = msgspec.json.Encoder()
_TO_QUOTE = re.compile(r'[ ="]')


class Stream(Protocol):
    """Where lines go: an ``Outlet``."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


@lru_cache(maxsize=2)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def _stamp(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


def _word(value: object) -> str:
    """As logfmt has it: quoted where it would not be read as one value, or does not show."""
    text = str(value)
    if not text.isprintable():
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False) if _TO_QUOTE.search(text) else text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoder.encode(line).decode()


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")


def configure(stream: Stream, *, as_json: bool, level: str) -> None:
    """Send everything to ``stream``. ``level`` is a name of ``logging``, in any case."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "uvicorn.error", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class RequestLog:
    """Where the requests' lines go, at level ``info``.

    Args:
        stream: written whole lines at a time, ``FLUSH_S`` after the first of them.
        as_json: one JSON object a line; else one short line for a person.
        level: the log level; above ``info`` only requests that failed are written, above ``warning`` none.
    """

    def __init__(self, stream: Stream, *, as_json: bool, level: str) -> None:
        self._stream = stream
        self._as_json = as_json
        number = logging.getLevelNamesMapping()[level.upper()]
        self._all = number <= logging.INFO
        self._failures = number <= logging.WARNING
        self._lines: list[object] = []
        self._flush_due = False

    def write(self, fields: Mapping[str, object], *, failed: bool) -> None:
        """Log one request. ``failed`` lines carry the level ``warning``."""
        if not (self._all or (failed and self._failures)):
            return
        now = time.time()
        if self._as_json:
            line = {
                "time": _stamp(now),
                "level": "warning" if failed else "info",
                "message": "request",
                **fields,
            }
            self._lines.append(line)
        else:
            shown = " ".join(f"{key}={_word(value)}" for key, value in fields.items() if value not in (None, ""))
            self._lines.append(f"{time.strftime('%H:%M:%S', time.localtime(now))} {shown}\n")
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what is due. A full disk or a closed pipe loses lines, never a request."""
        self._flush_due = False
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._stream.write(_encoder.encode_lines(lines).decode() if self._as_json else "".join(map(str, lines)))
            self._stream.flush()
        except (OSError, ValueError):
            pass


def default_stream() -> TextIO:
    """Standard error: standard output stays free for what a command prints."""
    return sys.stderr
