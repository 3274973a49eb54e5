"""What an engine shows, made into readings: by its own metrics, and by the gateway's times where it is silent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from headgate.gate import Claim, Gate, Ledger
from headgate.gate.interval import NO_STREAMS
from headgate.gate.orders import make_order
from headgate.pool.progress import Counters
from headgate.pool.statement import Metrics, Pace
from headgate.sizing import SILENT_S, Intervals, Sizing, Tempo, _slower
from headgate.telemetry.slo import Objectives

MOST = 100


@dataclass
class Engine:
    """As much of a supervisor as is looked at."""

    name: str = "e0"
    life: int = 1
    most: int = MOST
    gauges: Metrics | None = None
    slots: int = MOST

    def set_max_active(self, slots: int) -> None:
        self.slots = slots


@dataclass
class Pool:
    engines: list[Engine]


class Scene:
    """An engine with a full gate before it, on a clock that is moved by hand."""

    def __init__(self, objectives: Objectives) -> None:
        self.now_s = 0.0
        self.ledger = Ledger()
        gate = Gate(self.ledger, lambda: self.now_s)
        self.ledger.resize(0.0, "e0", MOST)
        self.engine = Engine(gauges=Metrics())
        self.sizing = Sizing(Pool([self.engine]), gate, objectives)  # type: ignore[arg-type]  # enough of a pool
        self.tick()

    def tick(self, after_s: float = 1.0) -> int:
        self.now_s += after_s
        self.sizing.tick(self.now_s)
        return self.engine.slots

    def serve(self, number: int, *, first_s: float) -> None:
        """So many requests are granted now, and get their first token ``first_s`` later."""
        tickets = [self.ledger.offer(self.now_s).ticket for _ in range(number)]
        self.now_s += first_s
        for ticket in tickets:
            self.ledger.first_token(self.now_s, ticket)


@pytest.fixture
def scene() -> Scene:
    return Scene(Objectives(ttft_s=1.0, itl_s=0.1, latency_s=None))


def test_a_silent_engine_is_read_by_the_gateways_own_times(scene: Scene) -> None:
    scene.serve(40, first_s=1.2)
    assert scene.tick(SILENT_S) < MOST
    assert scene.sizing.why("e0") == "ttft"


def test_who_waits_for_others_of_its_key_wants_no_slot(scene: Scene) -> None:
    """While one stood aside, slots came free one after another: others waited for slots that nobody wanted."""

    async def main() -> None:
        scene.ledger = Ledger(order=make_order("fair", capped=True))
        gate = Gate(scene.ledger, lambda: scene.now_s)
        scene.ledger.resize(0.0, "e0", MOST)
        scene.sizing = Sizing(Pool([scene.engine]), gate, Objectives())  # type: ignore[arg-type]  # enough of a pool
        scene.tick()
        for _ in range(20):
            scene.ledger.leave(scene.now_s + 1.0, scene.ledger.offer(scene.now_s).ticket)
        claim = Claim(key="a", most=1)
        scene.ledger.offer(scene.now_s, claim=claim)
        scene.ledger.offer(scene.now_s, claim=claim)
        assert (gate.waiting, gate.wanting) == (1, 0)
        others = [scene.ledger.offer(scene.now_s, claim=Claim(key="b")).ticket for _ in range(40)]
        scene.tick(SILENT_S)
        for each in others:
            scene.ledger.leave(scene.now_s, each)
        assert gate.held_back_on("e0") == 0

    asyncio.run(main())


def test_an_engine_is_silent_only_after_a_while(scene: Scene) -> None:
    """Its page is read every second or two: no news for less than that is no sign of anything."""
    scene.serve(40, first_s=1.2)
    assert scene.tick(SILENT_S - 1.5) == MOST
    assert scene.sizing.why("e0") == "start"


def test_what_a_silent_engine_said_before_is_not_taken_for_news(scene: Scene) -> None:
    """A line inside it that it told of once must not count again at every look that it doesn't answer."""
    scene.serve(40, first_s=0.1)
    scene.engine.gauges = Metrics(counters=Counters(running=5.0), waiting=35.0)
    scene.tick()
    for _ in range(10):
        scene.tick(SILENT_S)
    assert scene.engine.slots == MOST
    for _ in range(10):  # while one that goes on saying so is believed
        scene.engine.gauges = Metrics(counters=Counters(running=5.0), waiting=35.0)
        scene.tick()
    assert scene.sizing.why("e0") == "engine_line"


def test_first_tokens_that_are_late_here_count_though_the_engine_calls_them_quick(scene: Scene) -> None:
    """Its clock starts when its busy front gets to read a request."""
    scene.serve(40, first_s=1.2)
    scene.engine.gauges = Metrics(pace=Pace(firsts_s=4.0, firsts=40))
    assert scene.tick() < MOST
    assert scene.sizing.why("e0") == "ttft"


def test_first_tokens_that_are_late_at_the_engine_count_though_no_stream_shows_it(scene: Scene) -> None:
    scene.engine.gauges = Metrics(pace=Pace(firsts_s=48.0, firsts=40))
    assert scene.tick() < MOST
    assert scene.sizing.why("e0") == "ttft"


def test_an_engine_that_was_started_anew_has_a_limit_of_its_own(scene: Scene) -> None:
    scene.serve(40, first_s=1.2)
    assert scene.tick(SILENT_S) < MOST
    scene.engine.life += 1
    assert scene.tick() == MOST
    assert scene.sizing.why("e0") == "start"


def test_the_slower_of_two_views_is_taken_and_one_of_nothing_never_is() -> None:
    quick, slow, nothing = (1.0, 0.1, 10.0), (2.0, 0.4, 10.0), (0.0, 0.0, 0.0)
    assert _slower(quick, slow) == _slower(slow, quick) == slow
    assert _slower(slow, (2.0, 0.4, 11.0)) == slow
    assert _slower(nothing, slow) == _slower(slow, nothing) == slow
    assert _slower(nothing, nothing) == nothing


class Packing:
    """An engine whose streams have told of themselves, in front of it a gate in which somebody waits or nobody does."""

    def __init__(self, most: int = 8) -> None:
        self.wanting = 0
        self.engine = Engine(gauges=Metrics())
        self.streams = NO_STREAMS
        self.asked: list[tuple[str, int, bool]] = []
        self.now_s = 0.0
        self.intervals = Intervals(
            Pool([self.engine]),  # type: ignore[arg-type]  # enough of a pool
            self,  # type: ignore[arg-type]  # and of a gate
            Objectives(itl_s=0.1),
            streams=lambda _: self.streams,
            ask_for=lambda engine, tokens, *, obeys: self.asked.append((engine, tokens, obeys)),
            most=most,
        )
        self.intervals.tick(self.now_s)

    def second(self, *, tokens: int, events: int, gap_s: float = 0.01) -> int:
        """So many in the events of those that ended in this second; what the engine is asked for after it."""
        self.now_s += 1.0
        self.streams = self.streams.and_one(tokens, events, sequences=1)
        assert self.engine.gauges is not None
        pace = self.engine.gauges.pace
        self.engine.gauges = Metrics(pace=Pace(gaps_s=pace.gaps_s + 1_000 * gap_s, gaps=pace.gaps + 1_000))
        self.intervals.tick(self.now_s)
        return self.asked[-1][1]

    def joined(self) -> int:
        """Three seconds in which tokens came joined."""
        return [self.second(tokens=1_500, events=1_000) for _ in range(3)][-1]

    def gauge(self) -> dict[str, float]:
        (family,) = self.intervals.states()
        return {sample.labels["engine"]: sample.value for sample in family.samples}


def test_larger_events_are_asked_for_by_what_engine_and_streams_tell() -> None:
    packing = Packing()
    assert packing.asked == [("e0", 1, False)]
    assert packing.joined() == 1
    packing.wanting = 3
    assert packing.joined() == 7
    assert packing.gauge() == {"e0": 7.0}
    for _ in range(20):
        packing.streams = packing.streams.and_one_asked(100, 16, per_event=7, sequences=1)
    packing.second(tokens=0, events=0)
    assert packing.asked[-1] == ("e0", 7, True)


def test_what_was_told_before_the_last_look_is_no_news() -> None:
    packing = Packing()
    packing.wanting = 1
    assert packing.second(tokens=900, events=900) == 1
    for _ in range(20):
        assert packing.second(tokens=150, events=130) == 1


def test_an_engine_that_was_started_anew_is_asked_for_nothing_at_first() -> None:
    packing = Packing()
    packing.wanting = 1
    assert packing.joined() == 7
    packing.engine.life += 1
    assert packing.second(tokens=0, events=0) == 1
    assert packing.joined() == 7
    packing.engine.gauges = Metrics()  # somebody else's engine, started anew
    packing.intervals.tick(packing.now_s + 1)
    assert packing.asked[-1] == ("e0", 1, False)


def test_one_that_says_nothing_of_itself_or_has_no_slots_is_asked_for_nothing() -> None:
    packing = Packing()
    packing.wanting = 1
    assert packing.joined() == 7
    packing.engine.gauges = None  # its metrics have gone
    packing.asked.clear()
    packing.intervals.tick(packing.now_s + 1)
    packing.intervals.tick(packing.now_s + 2)
    assert packing.asked == [("e0", 1, False)]
    assert packing.gauge() == {}
    packing.engine.slots, packing.engine.gauges = 0, Metrics()
    packing.intervals.tick(packing.now_s + 3)
    assert packing.asked == [("e0", 1, False)]


def test_where_one_is_the_most_nothing_is_asked_for() -> None:
    packing = Packing(most=1)
    packing.intervals.tick(1.0)
    assert not packing.asked
    assert packing.gauge() == {}


class Told:
    """As much of a gate as the tempo is told to."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    def tempo(self, token_s: float) -> None:
        self.heard.append(token_s)


def test_the_tempo_is_that_of_all_engines_since_the_last_look() -> None:
    told, engines = Told(), [Engine("e0"), Engine("e1"), Engine("e2")]
    tempo = Tempo(Pool(engines), told)  # type: ignore[arg-type]  # enough of both
    tempo.tick()
    assert not told.heard, "nothing was shown"
    engines[0].gauges = Metrics(pace=Pace(gaps_s=2.0, gaps=100))
    engines[1].gauges = Metrics(pace=Pace(gaps_s=4.0, gaps=100))
    tempo.tick()
    tempo.tick()
    engines[0].gauges = Metrics(pace=Pace(gaps_s=12.0, gaps=200))
    engines[1].gauges = Metrics(pace=Pace(gaps_s=0.1, gaps=5))  # started anew
    tempo.tick()
    assert told.heard == pytest.approx([0.03, 0.1])


@pytest.mark.parametrize("paced", [True, False])
def test_slots_come_free_one_after_another_but_where_they_are_taken_for_the_urgent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, paced: bool
) -> None:
    told: list[float] = []
    monkeypatch.setattr(Gate, "pace", lambda _self, _engine, pace_s: told.append(pace_s))
    scene.sizing._paced = paced
    tickets = [scene.ledger.offer(scene.now_s).ticket for _ in range(MOST + 20)]
    scene.now_s += 1.0
    for ticket in tickets[:10]:
        scene.ledger.leave(scene.now_s, ticket)
    scene.engine.gauges = Metrics(pace=Pace(gaps_s=1.0, gaps=100))
    scene.tick()
    assert [pace_s > 0 for pace_s in told] == [True] * paced
