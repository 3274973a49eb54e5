"""What the gate is told of engines once a second, from what they show.

``Sizing`` is ``MAX_ACTIVE=auto``, each engine's slots: the rule is ``gate.limits``, pure; here an engine's own totals
become readings, and the slots go to its supervisor. ``Tempo`` is how fast tokens come, whatever ``MAX_ACTIVE`` is, and
``Intervals`` how many of them are to come in one event.
Apart from ``engines``, which exists for each request: this looks at a whole engine, now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import Metric

from headgate.gate.interval import Interval, Streams, Told
from headgate.gate.limits import Limit, Reading
from headgate.gate.slots import NONE_ENDED, Ended
from headgate.pool.statement import NO_PACE
from headgate.telemetry.metrics import gauges

if TYPE_CHECKING:
    from headgate.gate import Gate
    from headgate.pool.pool import Pool
    from headgate.pool.statement import Metrics, Pace
    from headgate.pool.supervisor import Supervisor
    from headgate.telemetry.slo import Objectives

SILENT_S = 2.0
"""An engine that has said nothing new for so long may be too busy to: then what is seen here must do."""


@dataclass(slots=True)
class _Sized:
    """One life of an engine: its limit, and what it had shown at the last reading."""

    life: int
    limit: Limit
    shown: Metrics | None
    pace: Pace
    ended: Ended
    at_s: float


class Sizing:
    """All engines' limits.

    Args:
        objectives: what a good answer is; the slots follow from it.
        paced: slots that come free in bunches are given out one after another while somebody waits. Not where a slot is
            taken for somebody urgent, who would wait for it again.
    """

    def __init__(self, pool: Pool, gate: Gate, objectives: Objectives, *, paced: bool = True) -> None:
        self._pool = pool
        self._gate = gate
        self._objectives = objectives
        self._paced = paced
        self._sized: dict[str, _Sized] = {}

    def tick(self, now_s: float) -> None:
        """Read every engine that has said something new; to be called about once a second."""
        for engine in self._pool.engines:
            if engine.slots and engine.gauges is not None:
                self._read(engine, engine.gauges, now_s)

    def why(self, engine: str) -> str | None:
        """What moved an engine's slots last; None while nothing was read of it."""
        sized = self._sized.get(engine)
        return sized.limit.why if sized is not None else None

    def states(self) -> Iterator[Metric]:
        """Why each engine has the slots that it has, and how many wait for their turn, for a scrape."""
        yield gauges(
            "api_max_active_why",
            "1 for what moved the engine's slots last: start, itl, ttft, latency, in_vain, preemptions, engine_line, "
            "room.",
            ("engine", "why"),
            {(name, sized.limit.why): 1.0 for name, sized in self._sized.items()},
        )
        yield gauges(
            "api_held_back_slots",
            "Slots that came free in a bunch and are given out one after another.",
            ("engine",),
            {(name,): self._gate.held_back_on(name) for name in self._sized},
        )

    def _read(self, engine: Supervisor, shown: Metrics, now_s: float) -> None:
        sized = self._sized.get(engine.name)
        if sized is None or sized.life != engine.life or sized.limit.most != engine.most:
            asked = self._objectives
            limit = Limit(engine.most, itl_s=asked.itl_s, ttft_s=asked.ttft_s, latency_s=asked.latency_s)
            ended = self._gate.ended_on(engine.name)
            self._sized[engine.name] = _Sized(engine.life, limit, shown, shown.pace, ended, now_s)
            engine.set_max_active(limit.slots)
            return
        silent = shown is sized.shown
        if silent and now_s - sized.at_s < SILENT_S:
            return
        before, pace = sized.pace, shown.pace
        if pace.gaps < before.gaps or pace.firsts < before.firsts:  # somebody else's engine, started anew
            before = NO_PACE
        ended, ended_before = self._gate.ended_on(engine.name), sized.ended
        if ended.number < ended_before.number:  # it had no slots for a while
            ended_before = NONE_ENDED
        firsts_s, firsts_s2, firsts = _slower(
            _unlike(pace.firsts_s - before.firsts_s, pace.firsts - before.firsts),
            (
                ended.firsts_s - ended_before.firsts_s,
                ended.firsts_s2 - ended_before.firsts_s2,
                ended.firsts - ended_before.firsts,
            ),
        )
        slots = sized.limit.read(
            Reading(
                seconds=now_s - sized.at_s,
                active=self._gate.held_on(engine.name),
                wanted=self._gate.wanting > 0,
                gaps_s=pace.gaps_s - before.gaps_s,
                gaps=pace.gaps - before.gaps,
                firsts_s=firsts_s,
                firsts_s2=firsts_s2,
                firsts=firsts,
                in_time=ended.in_time - ended_before.in_time,
                begun=ended.firsts - ended_before.firsts,
                holds_s=ended.held_s - ended_before.held_s,
                holds_s2=ended.held_s2 - ended_before.held_s2,
                holds=ended.number - ended_before.number,
                preempted=pace.preemptions - before.preemptions,
                running=None if silent else shown.counters.running,
                waiting=None if silent else shown.waiting,
                kv_usage=None if silent else shown.kv_usage,
                held_back=self._gate.held_back_on(engine.name),
            )
        )
        sized.shown, sized.pace, sized.ended, sized.at_s = shown, pace, ended, now_s
        engine.set_max_active(slots)
        if self._paced:
            self._gate.pace(engine.name, sized.limit.pace_s)


class Tempo:
    """How far apart the tokens of a sequence come, on all engines in the mean: forecasts go by it."""

    def __init__(self, pool: Pool, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate
        self._paces: dict[str, Pace] = {}

    def tick(self) -> None:
        """Read every engine; to be called about once a second."""
        gaps_s = gaps = 0.0
        for engine in self._pool.engines:
            if engine.gauges is None:
                continue
            pace, before = engine.gauges.pace, self._paces.get(engine.name, NO_PACE)
            self._paces[engine.name] = pace
            if pace.gaps >= before.gaps:  # else it was started anew
                gaps_s += pace.gaps_s - before.gaps_s
                gaps += pace.gaps - before.gaps
        if gaps_s > 0:
            self._gate.tempo(gaps_s / gaps)


@dataclass(slots=True)
class _Packed:
    """One life of an engine, what is asked of it, and what it had shown at the last reading."""

    life: int
    interval: Interval
    pace: Pace
    streams: Streams
    at_s: float


class AskFor(Protocol):
    def __call__(self, engine: str, per_event: int, /, *, obeys: bool) -> None: ...


class Intervals:
    """How many tokens each engine is asked to put into one event; the rule is ``gate.interval``, pure.

    Args:
        streams: what an engine's streams have told, ever.
        ask_for: told an engine, the number, and whether it is known to do as it is asked.
        most: in one event, ever.
    """

    def __init__(
        self,
        pool: Pool,
        gate: Gate,
        objectives: Objectives,
        *,
        streams: Callable[[str], Streams],
        ask_for: AskFor,
        most: int,
    ) -> None:
        self._pool = pool
        self._gate = gate
        self._objectives = objectives
        self._streams, self._ask_for = streams, ask_for
        self._most = most
        self._packed: dict[str, _Packed] = {}

    def tick(self, now_s: float) -> None:
        """Read every engine; to be called about once a second."""
        for engine in self._pool.engines if self._most > 1 else ():
            if engine.gauges is None:  # nothing tells any more
                if self._packed.pop(engine.name, None) is not None:
                    self._ask_for(engine.name, 1, obeys=False)
            elif engine.slots:
                interval = self._read(engine, engine.gauges.pace, now_s)
                self._ask_for(engine.name, interval.tokens, obeys=interval.is_obeyed is True)

    def states(self) -> Iterator[Metric]:
        """What each engine is asked for, for a scrape."""
        yield gauges(
            "api_stream_interval",
            "Tokens that the engine is asked to put into one event: more than 1 while its front can't keep up.",
            ("engine",),
            {(name,): packed.interval.tokens for name, packed in self._packed.items()},
        )

    def _read(self, engine: Supervisor, pace: Pace, now_s: float) -> Interval:
        streams = self._streams(engine.name)
        packed = self._packed.get(engine.name)
        if packed is None or packed.life != engine.life or pace.gaps < packed.pace.gaps:
            interval = Interval(self._most, itl_s=self._objectives.itl_s)
            self._packed[engine.name] = _Packed(engine.life, interval, pace, streams, now_s)
            return interval
        told = Told(
            seconds=now_s - packed.at_s,
            wanted=self._gate.wanting > 0,
            streams=streams.since(packed.streams),
            gaps_s=pace.gaps_s - packed.pace.gaps_s,
            gaps=pace.gaps - packed.pace.gaps,
        )
        packed.pace, packed.streams, packed.at_s = pace, streams, now_s
        packed.interval.read(told)
        return packed.interval


Times = tuple[float, float, float]
"""Sum in seconds, sum of squares, number."""


def _slower(engines: Times, ours: Times) -> Times:
    """First tokens as the engine saw them, or as they came here, whichever took longer.

    An engine's clock starts when it gets to read a request: what a busy front of it makes one wait before is only here.
    Streams alone show here.
    """
    return max(engines, ours, key=lambda seen: seen[0] / seen[2] if seen[2] > 0 else 0.0)


def _unlike(sum_s: float, number: float) -> Times:
    """Times of which the mean alone is known, taken to be as unlike each other as if each could end at any moment."""
    return sum_s, 2 * sum_s * sum_s / number if number > 0 else 0.0, number
