"""The loop of a client's process, and what it tells of one thing that it was asked to do.

A line in is a JSON object with ``do`` (the name of a function) and its arguments; a line out is a ``Told``. One process
serves a whole module of tests: importing a client can take longer than all that it does here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Told:
    """What a program that uses this client sees.

    Attributes:
        pieces: how many parts of a stream had text in them.
        finish: why the answer ended, in the API's own word; None where the client never heard of an end.
        headgate: the gateway's own figures, where the client can reach them.
        error: what was raised.
        seconds: how long it took, by this process's clock.
        slept: the pauses before another try that were asked for, where they are noted and not kept.
        retries: what the client's own log says of other tries.
        more: whatever else is of interest.
    """

    text: str = ""
    pieces: int = 0
    finish: str | None = None
    usage: dict[str, Any] | None = None
    headgate: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    seconds: float = 0.0
    slept: list[float] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


Do = Callable[..., object]


class _Retries(logging.Handler):
    """Hears every logger of this process; the SDKs say so at level INFO when they try again."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if "retrying" in line.lower():
            self.lines.append(line)


def told_error(error: BaseException) -> dict[str, Any]:
    """All that a program can read of an exception, by the names that clients give it."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    return {
        "class": type(error).__name__,
        "bases": [kind.__name__ for kind in type(error).__mro__[1:-1]],
        "text": str(error),
        "message": getattr(error, "message", None),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "type": getattr(error, "type", None),
        "param": getattr(error, "param", None),
        "request_id": getattr(error, "request_id", None),
        "retry_after": headers.get("retry-after"),
        "reason": headers.get("x-headgate-reason"),
        "body": _plain(getattr(error, "body", None)),
        "cause": type(error.__cause__).__name__ if error.__cause__ is not None else None,
    }


def _plain(value: Any) -> Any:
    """The same where it is JSON; its words where it isn't."""
    return json.loads(json.dumps(value, default=str))


def cancel_in_mid_stream(told: Told, read: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run ``read``, and cancel its task once it sets its event: what a server does whose own client has left."""

    async def both() -> None:
        enough = asyncio.Event()
        reading = asyncio.create_task(read(enough))
        waiting = asyncio.create_task(enough.wait())
        await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        reading.cancel()
        try:
            await reading
        except asyncio.CancelledError:
            told.more["cancelled"] = True

    asyncio.run(both())


def serve(table: dict[str, Do]) -> None:
    """Do what is asked, line by line, until stdin ends. Each function is given a ``Told`` to fill in."""
    sys.stdout = sys.stderr  # clients that print must not end up among the answers
    heard = _Retries()
    logging.basicConfig(level=logging.INFO, handlers=[heard])
    keep_pauses = time.sleep
    say({"ready": sorted(table)})
    for line in sys.stdin:
        asked = json.loads(line)
        do = table[asked.pop("do")]
        told = Told()
        heard.lines.clear()
        if asked.pop("note_pauses", False):
            time.sleep = told.slept.append  # type: ignore[assignment]  # any number will do
        began = time.monotonic()
        try:
            do(told, **asked)
        except Exception as error:
            told.error = told_error(error)
        finally:
            time.sleep = keep_pauses
        told.seconds = time.monotonic() - began
        told.retries += heard.lines
        say(asdict(told))


_out = sys.stdout


def say(what: object) -> None:
    """One line on stdout."""
    _out.write(json.dumps(what, default=str) + "\n")
    _out.flush()
