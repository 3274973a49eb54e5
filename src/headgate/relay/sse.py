"""Cuts a stream of bytes into server-sent events.

Only the boundaries are found here; what an event says is read in ``usage``. Engines write one event a chunk, so the
common case (the block is whole events, nothing is left over) costs two searches and no copy.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""An event longer than this is an engine gone wrong; the last event of ``/v1/responses`` holds a whole answer."""

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class EventTooLarge(Exception):
    """An event did not end within ``MAX_EVENT_BYTES``."""


class EventSplitter:
    """Gives back whole events, each with its closing blank line, in the order and with the bytes they came in."""

    __slots__ = ("_rest", "_searched")

    def __init__(self) -> None:
        self._rest = b""
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes; none where it completes none.

        Raises:
            EventTooLarge: what is held back has outgrown ``MAX_EVENT_BYTES``.
        """
        if not self._rest:
            end = data.find(b"\n\n")
            if end == len(data) - 2 and end >= 0 and b"\r" not in data:
                return [data]
        else:
            data = self._rest + data
        events: list[bytes] = []
        start = 0
        # A boundary may straddle two reads: step back by the longest one less a byte.
        search_from = max(self._searched - 3, 0)
        while match := _BLANK_LINE.search(data, search_from):
            events.append(data[start : match.end()])
            start = search_from = match.end()
        self._rest = data[start:]
        self._searched = len(self._rest)
        if self._searched > MAX_EVENT_BYTES:
            raise EventTooLarge
        return events

    @property
    def rest(self) -> bytes:
        """What has come since the last whole event."""
        return self._rest


def payload(event: bytes) -> bytes:
    """The data of an event: its ``data:`` lines joined by newlines, empty where it has none (a comment, say)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def comment(text: str) -> bytes:
    """A comment event, which every client skips."""
    return b": " + text.encode() + b"\n\n"
