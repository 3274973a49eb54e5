"""How long to wait before an engine is started again, and when to stop trying.

Separate because it is arithmetic: the count of failures and a number between 0 and 1 come in, seconds go out.
It ends there; counting the time and starting the engine are the supervisor's part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with a cap.

    Attributes:
        first_s: the delay after the first failure; short, since a crash of a good engine should cost little.
        factor: what each further failure multiplies the delay by.
        cap_s: no delay is longer, jitter included.
        jitter: the share of a delay that chance may add, so that engines that died together do not start
            together.
        attempts: an engine that was never ready in so many starts in a row is given up on.
        settled_s: after an engine was ready for so long the next failure counts as the first.
    """

    first_s: float = 0.5
    factor: float = 2.0
    cap_s: float = 30.0
    jitter: float = 0.25
    attempts: int = 5
    settled_s: float = 60.0

    def failures_after(self, failures: int, ready_for_s: float | None) -> int:
        """The failures in a row, this one too, for the delay; ``ready_for_s`` is None if it never was ready."""
        if ready_for_s is not None and ready_for_s >= self.settled_s:
            return 1
        return failures + 1

    def give_up(self, failed_starts: int) -> bool:
        """Whether an engine that was never ready in so many starts in a row is started no more.

        One that was ready is started again however often it crashes: it can serve, and what kills it may be a request.
        """
        return failed_starts >= self.attempts

    def delay_s(self, failures: int, chance: float) -> float:
        """Seconds until the next start, after so many failures in a row; ``chance`` lies in [0, 1)."""
        doublings = min(failures - 1, 64)  # beyond that a float overflows, and the cap holds long before
        delay_s = self.first_s * self.factor**doublings
        return min(self.cap_s, delay_s * (1 + self.jitter * chance))
