"""Whether an engine with work makes progress: the health that a health page does not tell.

vLLM's ``/health`` stays 200 while the engine hangs (vllm#39863, #36451), so health is what moves: the
engine's own counters and the events that the relay has seen from it. Separate because it is a fold over
samples, with time in them. It ends at the number of seconds without progress; what follows from it is the
supervisor's part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine's ``/metrics`` says about its work; None where it has no such series."""

    iteration_tokens: float | None = None
    generation_tokens: float | None = None
    running: float | None = None


NO_COUNTERS = Counters()


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at an engine: ``counters`` is None if it did not answer."""

    now_s: float
    in_flight: int
    relayed: int
    counters: Counters | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the samples so far amount to.

    Only time with work in flight counts, and it is added up over pauses: callers who give up after half a
    minute and come back must not hide a hang from us for ever.
    """

    last: Sample
    known: Counters | None
    stalled_s: float = 0.0

    def is_wedged(self, wedged_after_s: float) -> bool:
        """Whether work was in flight for so long with nothing moving.

        An engine that never showed a counter is never called wedged: a long reply that is not streamed moves
        nothing that we could see.
        """
        return self.known is not None and self.stalled_s >= wedged_after_s


def observe(before: Progress | None, sample: Sample) -> Progress:
    """What is known after one more sample."""
    visible = sample.counters if sample.counters != NO_COUNTERS else None
    if before is None:
        return Progress(sample, visible)
    known = visible or before.known
    if sample.relayed != before.last.relayed or known != before.known:
        return Progress(sample, known)
    waited_s = sample.now_s - before.last.now_s if before.last.in_flight > 0 else 0.0
    return Progress(sample, known, before.stalled_s + waited_s)
