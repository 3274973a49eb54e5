"""Which loads a round is made of, and how large they are.

- `paced`: 200 streams with one event each 20 ms. What an event costs a gateway that is woken for each of
  them; this is how tokens come from an engine.
- `bulk`: streams as fast as they go. What an event costs when several can be handled in one waking.
- `whole`: requests with no stream, 32 at a time, one after the other. What a request costs.
- `ttft`: 64 streams at once, short ones, one after the other. How much later the first event comes.
- `open`: requests with no stream that come when they come (Poisson), whoever still waits. How much later answers come.
- `streams-N`: N streams at once for ten seconds, an event of each as often as two cores can make them. What an event
  costs, and how late it is, by how many there are; and the memory that they take.

Only sizes are here; `client` knows what a load is, `run` runs it.
"""

from dataclasses import dataclass, replace

from loadtest.overhead.client import Job

STREAMS = {1: 20, 64: 20, 1_000: 200, 5_000: 1_000}
"""How many at once, and how far apart a stream's events are, in ms: about 5,000 events a second at most."""
CORE = ("paced", "bulk", "whole", "ttft")
GROUPS = {"streams": tuple(f"streams-{count}" for count in STREAMS)}
PHASES = (*CORE, "open", *GROUPS["streams"])


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
    rate_per_s: float = 0.0

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
            rate_per_s=self.rate_per_s,
        )


def phases(*, quick: bool) -> list[Phase]:
    """`quick` divides the work, not the load: as many at once, for a shorter time."""
    if quick:
        return [
            Phase("paced", "events", True, 200, 200, events=50, interval_ms=20, stagger_s=0.2, limit_s=10),
            Phase("bulk", "events", True, 32, 32, events=400, limit_s=5),
            Phase("whole", "completed", False, 32, 3_000, limit_s=3),
            Phase("ttft", "completed", True, 64, 320, events=10, interval_ms=20, stagger_s=0.2, limit_s=6),
            Phase("open", "completed", False, 64, 600, limit_s=6, rate_per_s=200),
            *(many_streams(count, for_s=2) for count in STREAMS),
        ]
    return [
        Phase("paced", "events", True, 200, 200, events=150, interval_ms=20, stagger_s=0.2),
        Phase("bulk", "events", True, 32, 32, events=1_500),
        Phase("whole", "completed", False, 32, 12_000, limit_s=5),
        Phase("ttft", "completed", True, 64, 768, events=10, interval_ms=20, stagger_s=0.2),
        Phase("open", "completed", False, 64, 2_000, rate_per_s=200),
        *(many_streams(count, for_s=10) for count in STREAMS),
    ]


def many_streams(count: int, *, for_s: float) -> Phase:
    """So many streams at once, each for so long; they begin one after the other, over the interval of their events."""
    interval_ms = STREAMS[count]
    return Phase(
        f"streams-{count}",
        "events",
        True,
        count,
        count,
        events=max(round(for_s * 1000 / interval_ms), 2),
        interval_ms=interval_ms,
        stagger_s=max(interval_ms / 1000, count / 2_500),
        limit_s=for_s + 20,
    )


def warm_up() -> list[Phase]:
    """Opens pools and fills caches, as many at once as the largest phase; its figures are thrown away."""
    return [
        Phase("warm-streams", "events", True, 200, 400, events=10, interval_ms=5, limit_s=5),
        Phase("warm-whole", "completed", False, 32, 1_000, limit_s=2),
    ]
