"""What is known of a running engine by looking at it: whether it answers, what it says, whether it gets on.

Separate from the supervisor because it has no part in starting or stopping: it gathers, and the supervisor decides.
An engine is ready when it lists a model. After its core's death a vLLM still does, and answers requests with 500 for
the seconds until it ends; its ``/health`` tells then, though its silence proves nothing (``progress``). An engine of
ours is not asked for its models again, its process tells when it is gone; one of somebody else's is, at each look.
It ends at these findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate.pool.probe import Probe, Slow, Unasked, Unfit, Unreachable
from headgate.pool.progress import Progress, Sample, observe
from headgate.pool.statement import Metrics, Statement, read_statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.pool.launchers import Launch

SLOW_LOOKS = 3
"""Looks in a row without an answer in time that make an engine unreachable, or silent."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an engine is looked at, in seconds.

    Attributes:
        eager_s: while it starts, for the first ``eager_for_s``.
        starting_s: while it starts, after that.
        busy_s: once it is ready.
        idle_s: how old its gauges may become while it has no work.
        answer_s: how long it may take to answer.
    """

    eager_s: float = 0.1
    eager_for_s: float = 5.0
    starting_s: float = 0.5
    busy_s: float = 1.0
    idle_s: float = 5.0
    answer_s: float = 5.0


NO_MODEL = "it lists no model"
UNWELL = "its /health says that it cannot work"


class Health:
    """Findings about one engine during one life.

    Attributes:
        models: its cards of ``/v1/models``, as they came.
        statement: what it says of itself.
        gauges: the latest ``/metrics``; None before the first, and where it has none.
        trouble: what was wrong at the last look; None also while one of ours refuses, as one does that loads.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        clock: Callable[[], float],
        in_flight: Callable[[], int],
        relayed: Callable[[], int],
        pace: Pace,
    ) -> None:
        self._is_ours = launch.is_ours
        self._probe = Probe(launch.address, answer_s=pace.answer_s, api_key=launch.api_key)
        self._clock = clock
        self._in_flight = in_flight
        self._relayed = relayed
        self._idle_s = pace.idle_s
        self._progress: Progress | None = None
        self._silent_since_s: float | None = None
        self._slow_looks = 0
        self._relayed_at_last_answer = 0
        self._scraped_s = float("-inf")
        self.models: tuple[dict[str, object], ...] = ()
        self.statement = Statement()
        self.gauges: Metrics | None = None
        self.trouble: str | None = None

    @property
    def stalled_s(self) -> float:
        """For how long there was work and nothing moved."""
        return self._progress.stalled_s if self._progress else 0.0

    def is_wedged(self, wedged_after_s: float) -> bool:
        """Whether that is so long that it hangs."""
        return self._progress is not None and self._progress.is_wedged(wedged_after_s)

    @property
    def silent_s(self) -> float:
        """For how long it has not answered though it listens; 0 while it refuses, as one does that loads.

        A single look tells nothing: the machine may have stood still meanwhile, and not the engine.
        """
        if self._silent_since_s is None or self._slow_looks < SLOW_LOOKS:
            return 0.0
        return self._clock() - self._silent_since_s

    async def is_ready(self) -> bool:
        """Whether it lists a model; what it says of itself is read then, too."""
        looked_s = self._clock()
        try:
            models = await self._probe.models()
            if not models:
                raise Unfit(NO_MODEL)
            if not await self._probe.is_well():
                raise Unfit(UNWELL)
        except (Unreachable, Unasked) as trouble:
            # One of ours refuses while it loads: there is nothing wrong with that.
            loads = self._is_ours and not isinstance(trouble, Unfit | Unasked)
            self.trouble, self._silent_since_s, self._slow_looks = None if loads else str(trouble), None, 0
            return False
        except Slow as trouble:
            self.trouble = str(trouble)
            self._slow_looks += 1
            if self._silent_since_s is None:
                self._silent_since_s = looked_s
            return False
        self.models = models
        self._progress = None
        self._answered()
        try:
            await self._scrape()
        except (Unreachable, Slow):
            self.statement = read_statement(None, models)
        self.trouble = None
        return True

    async def look(self, *, closely: bool) -> bool | None:
        """Look at a ready engine: False if it cannot work, None if it did not answer in time.

        Args:
            closely: somebody has reason to suspect it.
        """
        self.trouble = None
        try:
            if (self._is_ours or closely) and not await self._probe.is_well():
                raise Unfit(UNWELL)
            if not self._is_ours:
                self.models = await self._probe.models()
                if not self.models:
                    raise Unfit(NO_MODEL)
            if self._in_flight() > 0 or self._clock() - self._scraped_s >= self._idle_s:
                await self._scrape()
            else:
                self._note(None)
        except Unreachable as trouble:
            self.trouble = str(trouble)
            return False
        except Unasked as trouble:
            self.trouble = str(trouble)
            return None
        except Slow as trouble:
            self._note(None)
            if self._relayed() != self._relayed_at_last_answer:
                self._answered()  # it answers others
            self._slow_looks += 1
            # A process of ours that is slow still lives: that it hangs, its lack of progress will show. But one that
            # is suspected has no slots, hence no work, hence no lack of progress.
            if self._slow_looks >= SLOW_LOOKS and (closely or not self._is_ours):
                self.trouble = str(trouble)
                return False
            return None
        self._answered()
        return True

    def status(self) -> dict[str, object]:
        """What it says, ready for JSON."""
        gauges = self.gauges or Metrics()
        return {
            "max_model_len": self.statement.max_model_len,
            "kv_tokens": self.statement.kv_tokens,
            "running": _whole(gauges.counters.running),
            "waiting": _whole(gauges.waiting),
            "kv_usage": gauges.kv_usage,
            "trouble": self.trouble,
        }

    def end(self) -> None:
        """That life is over, and its gauges are of no use any more."""
        self.gauges = None

    async def _scrape(self) -> None:
        self._scraped_s = self._clock()
        self.gauges = await self._probe.metrics()
        self.statement = read_statement(self.gauges, self.models)
        self._note(self.gauges)

    def _note(self, metrics: Metrics | None) -> None:
        counters = metrics.counters if metrics else None
        self._progress = observe(self._progress, Sample(self._clock(), self._in_flight(), self._relayed(), counters))

    def _answered(self) -> None:
        self._slow_looks = 0
        self._relayed_at_last_answer = self._relayed()


def _whole(number: float | None) -> int | None:
    """Prometheus knows only floats; so many requests are a whole number."""
    return None if number is None else int(number)
