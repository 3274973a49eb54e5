"""What an engine prints, cut into lines and the last of them kept.

Separate because it is bytes in, lines out. Progress bars redraw themselves with carriage returns; one bar is
one line here, or fifty redraws would push out the error that came before. It ends at text; what a line means
is the launcher's part.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT_LINES = 200
TOLD_LINES = 15
LINE_LIMIT = 1000
"""Characters; what is longer is cut, so that an engine that prints no line ends cannot fill our memory."""

_TROUBLE = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|\b[Ee]rror: |^[\w.]*(?:Error|Exception)\b|[Oo]ut of memory|^cannot start "
)
_ENDS = re.compile(rb"(\r\n|\n|\r)")
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


HIDDEN = "(key)"


class Output:
    """The last lines, and the unfinished one.

    Args:
        kept: how many lines.
        secret: its own key, which a wrapper that prints its environment would put into the log and into ``/status``.
    """

    def __init__(self, kept: int = KEPT_LINES, *, secret: str | None = None) -> None:
        self._secret = secret
        self._lines: deque[str] = deque(maxlen=kept)
        self._rest = b""
        self._redraws = False

    @property
    def lines(self) -> list[str]:
        """The last finished lines, the newest last."""
        return list(self._lines)

    def feed(self, chunk: bytes) -> list[str]:
        """Take what was printed; the lines that it finished."""
        # "\r" at the very end may be half of "\r\n": it waits for what follows.
        pieces = _ENDS.split(self._rest + chunk)
        if len(pieces) > 1 and pieces[-1] == b"" and pieces[-2] == b"\r":
            pieces = [*pieces[:-3], pieces[-3] + b"\r"]
        *finished, self._rest = pieces
        if len(self._rest) > 4 * LINE_LIMIT:
            self._rest = self._rest[: 4 * LINE_LIMIT]
        return [
            line
            for raw, end in zip(finished[::2], finished[1::2], strict=True)
            if (line := self._finish(raw, redrawn=end == b"\r"))
        ]

    def close(self) -> list[str]:
        """The output has ended: what is left is a line, too."""
        rest, self._rest = self._rest.rstrip(b"\r"), b""
        line = self._finish(rest, redrawn=False)
        return [line] if line else []

    def _finish(self, raw: bytes, *, redrawn: bool) -> str:
        line = _ESCAPES.sub("", raw.decode("utf-8", errors="replace")).rstrip()
        if self._secret:
            line = line.replace(self._secret, HIDDEN)
        line = line[:LINE_LIMIT]
        if not line:
            return ""
        if self._redraws and self._lines:
            self._lines.pop()
        self._lines.append(line)
        self._redraws = redrawn
        return line


def last_words(lines: Sequence[str], told: int = TOLD_LINES) -> list[str]:
    """What of the output of an engine that died is worth telling.

    The lines that speak of an error, where there are any: after its error a vLLM may print a screenful about leaks.
    """
    if len(lines) <= told:
        return list(lines)
    return ([line for line in lines if _TROUBLE.search(line)] or list(lines))[-told:]
