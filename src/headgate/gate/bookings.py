"""Who was told to come back, and when: who does goes before who is new.

A refusal that says when to come back is a promise of sorts, and a crowd that goes on coming breaks it: the line is full
again when the first of those refused return. So a return is known by what it asks, which is the same to the byte where
a client tries again, as SDKs do, and goes before those of the same caller that are new. Nothing is held free for it:
who doesn't come back costs nobody anything, and who comes too soon is new.

Two who ask the same are one and the same here, and as good as each other: as many returns are known as were told.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

EARLY_S = 0.05
"""A client's timer may be so much quicker."""
LATE_S = 30.0
"""A return is known for so long after its time."""
MOST = 65_536
"""Returns that are expected at once; beyond that the first told are forgotten. About 250 bytes each."""


class Bookings:
    """Returns that are expected. Every ``now`` is real time in seconds; a mark is what a request is known by."""

    __slots__ = ("_due", "_told")

    def __init__(self) -> None:
        self._due: dict[int, list[float]] = {}  # a heap for each mark
        self._told: deque[tuple[float, int]] = deque()

    def book(self, now: float, mark: int, told_s: float) -> None:
        """A request was refused, and told to come back in ``told_s``."""
        due = now + told_s
        heappush(self._due.setdefault(mark, []), due)
        self._told.append((due, mark))
        while self._told[0][0] + LATE_S < now:
            self._drop_late(now, self._told.popleft()[1])
        if len(self._told) > MOST:
            _, oldest = self._told.popleft()
            if dues := self._due.get(oldest):
                heappop(dues)
            self._drop_late(now, oldest)

    def redeem(self, now: float, mark: int) -> bool:
        """Whether a request comes back as it was told; one less is expected then."""
        self._drop_late(now, mark)
        dues = self._due.get(mark)
        if dues is None or dues[0] > now + EARLY_S:
            return False
        heappop(dues)
        self._drop_late(now, mark)
        return True

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def __bool__(self) -> bool:
        return bool(self._due)

    def _drop_late(self, now: float, mark: int) -> None:
        dues = self._due.get(mark)
        if dues is None:
            return
        while dues and dues[0] + LATE_S < now:
            heappop(dues)
        if not dues:
            del self._due[mark]
