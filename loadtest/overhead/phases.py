"""Which loads a round is made of, and how large they are.

- `paced`: 200 streams with one event each 20 ms. What an event costs a gateway that is woken for each of
  them; this is how tokens come from an engine.
- `bulk`: streams as fast as they go. What an event costs when several can be handled in one waking.
- `whole`: requests with no stream, 32 at a time, one after the other. What a request costs.
- `ttft`: 64 streams at once, short ones, one after the other. How much later the first event comes.

Only sizes are here; `client` knows what a load is, `run` runs it.
"""

from dataclasses import dataclass, replace

from loadtest.overhead.client import Job

PHASES = ("paced", "bulk", "whole", "ttft")


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    per: str
    """What the CPU is divided by: `events` or `completed` (requests)."""
    stream: bool
    at_once: int
    requests: int
    events: int = 1
    interval_ms: float = 0.0
    limit_s: float = 20.0
    stagger_s: float = 0.0

    def fewer_streams(self, divisor: int) -> "Phase":
        if not self.stream:
            return self
        return replace(self, at_once=max(1, self.at_once // divisor), requests=max(1, self.requests // divisor))

    def job(self, port: int) -> Job:
        return Job(
            port=port,
            stream=self.stream,
            at_once=self.at_once,
            requests=self.requests,
            limit_s=self.limit_s,
            events=self.events,
            interval_ms=self.interval_ms,
            stagger_s=self.stagger_s,
        )


def phases(*, quick: bool) -> list[Phase]:
    """`quick` divides the work, not the load: as many at once, for a shorter time."""
    if quick:
        return [
            Phase("paced", "events", True, 200, 200, events=50, interval_ms=20, stagger_s=0.2, limit_s=10),
            Phase("bulk", "events", True, 32, 32, events=400, limit_s=5),
            Phase("whole", "completed", False, 32, 3_000, limit_s=3),
            Phase("ttft", "completed", True, 64, 320, events=10, interval_ms=20, stagger_s=0.2, limit_s=6),
        ]
    return [
        Phase("paced", "events", True, 200, 200, events=150, interval_ms=20, stagger_s=0.2),
        Phase("bulk", "events", True, 32, 32, events=1_500),
        Phase("whole", "completed", False, 32, 12_000, limit_s=5),
        Phase("ttft", "completed", True, 64, 768, events=10, interval_ms=20, stagger_s=0.2),
    ]


def warm_up() -> list[Phase]:
    """Opens pools and fills caches, as many at once as the largest phase; its figures are thrown away."""
    return [
        Phase("warm-streams", "events", True, 200, 400, events=10, interval_ms=5, limit_s=5),
        Phase("warm-whole", "completed", False, 32, 1_000, limit_s=2),
    ]
