"""Refusing a few by chance before all must be refused: probabilistic shedding.

Load is the larger of how full the line is and how slow answers have become (the mean of the last hundred, over
``full_s``). Below 70 % everybody is let in; from there the chance of a refusal grows to 10 % at full load, and beyond
that it is 1. Low priorities see a load that is a fifth higher for each step, high ones a lower one, so they are
refused first, or last. Clients that come back later spread a burst that would fill the line.

Pure: chance is drawn by whoever asks.
"""

from __future__ import annotations

from collections import deque

FROM = 0.7
CHANCE_AT_FULL = 0.1
REMEMBERED = 100
RANK_STEP = 1.2


class Shedder:
    """The chance with which a request is refused.

    Args:
        full_s: answers that take so long in the mean are full load.
    """

    def __init__(self, full_s: float = 5.0) -> None:
        self._full_s = full_s
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._sum_s = 0.0

    def learn(self, latency_s: float) -> None:
        """An answer took so long, from its arrival to its end."""
        if len(self._latencies) == REMEMBERED:
            self._sum_s -= self._latencies[0]
        self._latencies.append(latency_s)
        self._sum_s += latency_s

    def load(self, waiting: int, queue_max: int) -> float:
        """0: idle; 1: full. An empty line is not full, however slow answers are."""
        if not waiting:
            return 0.0
        slow = self._sum_s / len(self._latencies) / self._full_s if self._latencies else 0.0
        return max(waiting / queue_max if queue_max else 1.0, slow)

    def chance(self, waiting: int, queue_max: int, rank: int = 0) -> float:
        """Of a refusal, 0 to 1, for a request of this rank (0 normal, above 0 later)."""
        load = self.load(waiting, queue_max) * RANK_STEP**rank
        if load < FROM:
            return 0.0
        return 1.0 if load >= 1.0 else CHANCE_AT_FULL * (load - FROM) / (1.0 - FROM)
