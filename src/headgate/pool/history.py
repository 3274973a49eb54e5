"""How long starts took before, and so how long this one still takes.

A small file, since the answer is wanted most right after the gateway itself was started. Separate from the
supervisor because it outlives the process. It ends at an estimate; who is told is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

KEPT = 8
SOONEST_S = 1.0


class History:
    """Durations of starts by key (what was started, with which arguments), in seconds, the newest last.

    With no path nothing outlives the process. A file that cannot be read or written is passed over: it costs
    an estimate, not a start.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._durations_s = self._load()

    def record(self, key: str, duration_s: float) -> None:
        """Keep one more duration."""
        # Other gateways may share the file: theirs are taken along, the last writer of the same moment wins.
        self._durations_s |= self._load()
        self._durations_s[key] = [*self._durations_s.get(key, []), round(duration_s, 2)][-KEPT:]
        self._save()

    def eta_s(self, key: str, elapsed_s: float) -> float | None:
        """Seconds until a start that began ``elapsed_s`` ago is done; None if none was ever seen.

        The median of those starts that took longer than this one has: the longer it lasts, the less the quick
        ones say about it. One that takes longer than any did is given as long again as it is late: it may hang, and a
        second to go, said for minutes, is no estimate. Never under a second, since it is not done yet.
        """
        durations_s = self._durations_s.get(key)
        if not durations_s:
            return None
        longer_s = [duration_s for duration_s in durations_s if duration_s > elapsed_s]
        ends_s = statistics.median(longer_s) if longer_s else 2 * elapsed_s - max(durations_s)
        return max(SOONEST_S, ends_s - elapsed_s)

    def _load(self) -> dict[str, list[float]]:
        if self._path is None:
            return {}
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=dict[str, list[float]])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
        return {key: durations_s[-KEPT:] for key, durations_s in found.items()}

    def _save(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.encode(self._durations_s))
                os.replace(draft, self._path)
            except OSError:
                os.unlink(draft)
