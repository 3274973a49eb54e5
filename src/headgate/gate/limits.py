"""How many slots an engine should have: ``MAX_ACTIVE=auto``, found while it runs.

A controller that looks at an engine once a second and moves its slots so that as many answers as can be meet the
objectives. It starts at what the engine says that it schedules, since below saturation fewer would only make people
wait, and comes down when the engine shows that it has too much: tokens come slower than the objective, first
tokens take too much of theirs after the grant, long answers take more than the objective for the whole leaves them,
sequences are preempted, or the engine keeps a line of its own. Down at once, in one step of at most a quarter, then it
waits until the step can show; up by a few percent, only while slots are short and there is something to gain, and
slowly near the number at which sequences were preempted last. What was taken away for an objective, and has made
nothing better, is given back; and for late first tokens nothing is taken away for which there were fewer good answers
before (``yields``), unless most are late.

What it goes by, and what not: the time of a whole request (Netflix's concurrency limits, Vegas, Gradient2) says
little here, since answers differ in length a hundredfold and stream for most of it; the time between tokens does
not depend on length, and the time to the first one after the grant shows the engine's own line. Little's law is in
the choice of signals: with more slots than the engine can use, the time in it grows and the throughput does not.

Pure: a reading comes in, a number goes out.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from headgate.gate.timely import LINE_LEAST
from headgate.gate.yields import Yields

AIM = 0.95
"""Of the objective: some streams are slower than the mean."""
FIRST_SHARE = 0.5
"""Of the objective for the first token that may be spent at the engine in the mean; the rest is for the line."""
FIRST_MOST = 0.8
"""Of the same, what even a slow first token may take where the line needs no more; ``timely`` allows no more either."""
FIRST_SPREAD = 2.0
"""Standard deviations over the mean at which a first token is a slow one."""
FIRST_ALONE = 0.75
"""Of the same in the mean while nobody waits in the line, when all of it is the engine's: fewer slots would make a
line, which is worth it only where the engine is on its way to being late with everybody."""
LINE_FOR = 8
"""The line needs the time in which so many come: then somebody in time stands there whenever a slot comes free."""
FULL = 0.95
"""The share of the slots that must be held, or held back for the pace, to call them short."""
DOWN_MOST = 0.25
UP_MOST = 0.04
PAST = 1.25
"""How far above the number at which it preempted an engine must get for that to be forgotten."""
MEMORY = 0.8
"""How much of what was seen a second ago still counts."""
SETTLE_S = 4.0
"""How long a step down may take to show."""
KV_FULL = 0.97
PACE = 1.25
"""How much sooner than in the mean slots may come free after one another where somebody waits."""
LONG = 1.25
"""Standard deviations over the mean at which an answer is a long one: of evenly spread lengths nearly the longest, of
exponential ones the ninth in ten."""


ENOUGH_IN_TIME = 0.5
"""The share of first tokens in time from which on it is looked at what slots give, before any are taken away."""
LAG_S = 2.0
"""How long after a change of the slots what begins is still of those before."""
KNOWN_WITHIN_S = 10.0
"""For how long it is waited to know what a number of slots gives."""
NO_LESS = 0.97
"""Of what these slots give, fewer must have given, where that is known, or none are taken away."""
MORE = 1.1
"""Times what these slots give, a higher number must have given to be taken again."""
VAIN_SLOTS = 0.6
"""Of the slots that were held when the first were taken away: once no more are left or held than this, ..."""
VAIN_AFTER_S = 10.0
"""... and it has been so for this long, ..."""
VAIN_LOAD = 0.9
"""... no more may be used of the objective than so much of what was used then, or it was in vain."""
VAIN_FOR_S = 30.0
"""For how long none are taken away for an objective then; twice as long each time that it is so again, ..."""
VAIN_FOR_MOST_S = 240.0
"""... up to this."""
VAIN_UNLESS = 1.5
"""Times what was used of the objective before: that is another load."""


class Reading(NamedTuple):
    """What was seen of an engine since the reading before. Times in seconds.

    Attributes:
        seconds: how long that was.
        active: slots held on it now.
        wanted: whether somebody waits for one.
        gaps_s, gaps: sum and number of the times between two tokens of a sequence.
        firsts_s, firsts_s2, firsts: the times from the grant to the first token: sum, sum of squares, number.
        begun, in_time: first tokens that came to the gate, and how many of them while their answers could be good.
        holds_s, holds_s2, holds: of those that ended, the times from the grant: sum, sum of squares, number.
        preempted: sequences that the engine put back.
        running, waiting: sequences that it computes, and that wait inside it; None where it doesn't say.
        kv_usage: 0 to 1; None where it doesn't say.
        held_back: slots that came free and are held back for the pace.
    """

    seconds: float
    active: int
    wanted: bool
    gaps_s: float = 0.0
    gaps: float = 0.0
    firsts_s: float = 0.0
    firsts_s2: float = 0.0
    firsts: float = 0.0
    begun: float = 0.0
    in_time: float = 0.0
    holds_s: float = 0.0
    holds_s2: float = 0.0
    holds: float = 0.0
    preempted: float = 0.0
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    held_back: int = 0


class Limit:
    """The slots of one engine.

    Args:
        most: never more than this: what the engine schedules at once.
        itl_s: the objective for the time between tokens; None: there is none.
        ttft_s: for the first token, from arrival.
        latency_s: for the whole answer, from arrival.

    Attributes:
        why: what moved it last: ``start``, ``itl``, ``ttft``, ``latency``, ``preemptions``, ``engine_line``, ``room``,
            ``in_vain`` (they were given back, since fewer made nothing better, or gave less).
        pace_s: no two slots should come free sooner after one another; 0 where nobody waits for one.
    """

    def __init__(self, most: int, *, itl_s: float | None, ttft_s: float | None, latency_s: float | None = None) -> None:
        self.most = most
        self.why = "start"
        self.pace_s = 0.0
        self._itl_s = itl_s
        self._ttft_s = ttft_s
        self._latency_s = latency_s
        self._exact = float(most)
        self._settling_s = 0.0
        self._preempted_at: float | None = None
        self._gaps = _Mean()
        self._at_work = _Mean()
        self._firsts = _Mean()
        self._begun = self._looked_s = 0.0
        self._holds = _Mean()
        self._lined_up_s = 0.0
        self._in_time = _Mean()
        self._yields = Yields()
        self._steady_s = self._same_s = 0.0  # for how long all slots were in use, and since the last step
        self._descent: _Descent | None = None
        self._vain: _Descent | None = None
        self._eased_s = self._stays_s = 0.0
        self._stay_s = VAIN_FOR_S

    @property
    def slots(self) -> int:
        """How many, now; 1 at least."""
        return max(1, int(self._exact))

    def read(self, reading: Reading) -> int:
        """Take a reading into account; the slots from now on."""
        self._gaps.add(reading.gaps_s, reading.gaps, reading.seconds)
        self._at_work.add(reading.active * reading.gaps, reading.gaps, reading.seconds)
        self._firsts.add(reading.firsts_s, reading.firsts, reading.seconds, reading.firsts_s2)
        kept = MEMORY**reading.seconds
        self._begun = self._begun * kept + reading.firsts
        self._looked_s = self._looked_s * kept + reading.seconds
        self._holds.add(reading.holds_s, reading.holds, reading.seconds, reading.holds_s2)
        self._settling_s = max(0.0, self._settling_s - reading.seconds)
        self._stays_s = max(0.0, self._stays_s - reading.seconds)
        few = self._descent is not None and max(self._exact, reading.active) <= VAIN_SLOTS * self._descent.slots
        self._eased_s = self._eased_s + reading.seconds if few else 0.0
        in_line = reading.waiting is not None and reading.waiting > max(1.0, 0.1 * (reading.running or 0.0))
        self._lined_up_s = self._lined_up_s + reading.seconds if in_line else 0.0
        self._see_what_slots_give(reading)
        self.pace_s = self._holds.mean_s / self.slots / PACE if reading.wanted else 0.0
        if self._settling_s:
            return self.slots
        load, why = self._load(has_line=reading.wanted)
        if load <= 1 and self._eased_s >= VAIN_AFTER_S:  # it was of use; what comes later is another load's
            self._descent, self._stay_s = None, VAIN_FOR_S
        is_short = reading.wanted and reading.active + reading.held_back >= FULL * self.slots
        # What showed is of the seconds that are remembered: a load that has gone since must not count for less.
        at_work = min(self._exact, max(float(reading.active), self._at_work.mean_s, 1.0))
        if reading.preempted:
            at_work = min(at_work, reading.running or at_work)
            self._down("preemptions", at_work * (1 - DOWN_MOST / 5))
            self._preempted_at = self._exact
        elif load > 1:
            self._ease(why, load, at_work)
        elif self._lined_up_s >= SETTLE_S and reading.running and reading.running < at_work:
            self._down("engine_line", max(reading.running, at_work * (1 - DOWN_MOST)))
        elif is_short and (reading.kv_usage or 0.0) < KV_FULL:
            self._up(1 - load)
        return self.slots

    def _load(self, *, has_line: bool) -> tuple[float, str]:
        """How much of the tightest objective is used, and which one that is."""
        itl = self._gaps.mean_s / (AIM * self._itl_s) if self._itl_s else 0.0
        ttft = self._first_load(self._ttft_s, has_line=has_line) if self._ttft_s else 0.0
        latency = self._long_s() / (AIM * (1 - LINE_LEAST) * self._latency_s) if self._latency_s else 0.0
        return max((itl, "itl"), (ttft, "ttft"), (latency, "latency"), key=lambda each: each[0])

    def _first_load(self, ttft_s: float, *, has_line: bool) -> float:
        """How much of what the line leaves of the objective first tokens take.

        Half of it in the mean is for the engine in any case. More of it is where even slow ones leave the line what it
        needs, which is little where many come a second: there slots that are worth having would be given away for it.
        """
        mean_s = self._firsts.mean_s
        slow_s = mean_s + FIRST_SPREAD * self._firsts.deviation_s
        if not has_line:
            return min(mean_s / FIRST_ALONE, slow_s / AIM) / ttft_s
        line_s = LINE_FOR * self._looked_s / max(self._begun, 1.0)
        share = min(max(FIRST_SHARE, 1 - line_s / ttft_s), FIRST_MOST)
        return min(mean_s / FIRST_SHARE, slow_s / share) / ttft_s

    def _long_s(self) -> float:
        """How long a long answer takes at the engine."""
        return self._holds.mean_s + LONG * self._holds.deviation_s

    def _ease(self, why: str, load: float, at_work: float) -> None:
        """Take slots away for an objective, as long as that is of use.

        What takes long for another reason than how much is asked at once, as a first token does over a slow network or
        behind a busy front, takes as long with one slot as with a hundred.
        """
        vain, began = self._vain, self._descent
        if self._stays_s and vain is not None and why == vain.why and load <= VAIN_UNLESS * vain.load:
            return
        fewer = at_work * max(1 - DOWN_MOST, 1 - 0.7 * (1 - 1 / load))
        if why == "ttft" and self._steady_s and self._in_time.mean_s >= ENOUGH_IN_TIME:
            gave_more = self._gave_more()
            if gave_more is not None:
                self._take_again(gave_more)
                return
            if self._gives_no_less(fewer):
                return
        if began is None or began.why != why:
            self._descent = _Descent(why, at_work, load)
            self._eased_s = 0.0
        elif self._eased_s < VAIN_AFTER_S:  # what they do shows late: the worst of it counts
            self._descent = began._replace(load=max(began.load, load))
        elif load > VAIN_LOAD * began.load:
            self._give_back(began)
            return
        else:
            self._descent = _Descent(why, at_work, load)
            self._eased_s, self._stay_s = 0.0, VAIN_FOR_S
        self._down(why, fewer)

    def _see_what_slots_give(self, reading: Reading) -> None:
        """Note what so many slots give, once they are what gives it."""
        self._in_time.add(reading.in_time, reading.begun, reading.seconds)
        self._yields.pass_by(reading.seconds)
        self._same_s += reading.seconds
        in_use = reading.active + reading.held_back
        if reading.wanted and FULL * self.slots <= in_use <= self.slots + max(1.0, 0.05 * self.slots):
            self._steady_s += reading.seconds
        else:
            self._steady_s = 0.0
        if self._steady_s > LAG_S:
            self._yields.note(self.slots, reading.in_time, reading.seconds)

    def _gave_more(self) -> float | None:
        """A higher number of slots that gave more than this one does, if any is known."""
        here, above = self._yields.of(self.slots), self._yields.best_above(self.slots)
        if here is None or above is None or above[1] <= MORE * here:
            return None
        return above[0] if above[0] <= (self._preempted_at or self.most) else None

    def _gives_no_less(self, fewer: float) -> bool:
        """Whether this number of slots gives no less than so few of them did; as long as it isn't known yet, too."""
        here, then = self._yields.of(self.slots), self._yields.of(fewer)
        if here is None:
            return self._same_s < KNOWN_WITHIN_S
        return then is not None and then < NO_LESS * here

    def _give_back(self, began: _Descent) -> None:
        self._vain = began
        self._stays_s, self._stay_s = self._stay_s, min(2 * self._stay_s, VAIN_FOR_MOST_S)
        self._take_again(began.slots)

    def _take_again(self, slots: float) -> None:
        self._exact, self.why = min(float(self.most), slots), "in_vain"
        self._descent = None
        self._settling_s = SETTLE_S
        self._forget()

    def _down(self, why: str, slots: float) -> None:
        self._exact = max(1.0, slots)
        self.why = why
        self._settling_s = max(SETTLE_S, self._holds.mean_s) if why == "latency" else SETTLE_S
        self._forget()

    def _forget(self) -> None:
        self._lined_up_s = self._steady_s = self._same_s = 0.0
        self._in_time.forget()
        self._gaps.forget()
        self._at_work.forget()
        self._firsts.forget()
        self._holds.forget()

    def _up(self, room: float) -> None:
        step = max(0.25, self._exact * min(UP_MOST, 0.15 * room))
        if self._preempted_at is not None and self._exact > PAST * self._preempted_at:
            self._preempted_at = None  # what runs now is shorter than what was put back then
        if self._preempted_at is not None and self._exact + step > self._preempted_at:
            step = min(step, max(0.1, 0.002 * self._exact))
        if self._exact < self.most:
            self._exact = min(float(self.most), self._exact + step)
            self.why = "room"
            if self._descent is not None and self._exact > self._descent.slots:
                self._descent = None


class _Descent(NamedTuple):
    """Where slots began to be taken away: for what, how many there were, and how much of the objective was used."""

    why: str
    slots: float
    load: float


class _Mean:
    """A mean of what was seen lately, and how far from it things are."""

    __slots__ = ("_count", "_sum_s", "_sum_s2")

    def __init__(self) -> None:
        self._sum_s = self._sum_s2 = self._count = 0.0

    @property
    def mean_s(self) -> float:
        return self._sum_s / self._count if self._count else 0.0

    @property
    def deviation_s(self) -> float:
        """The standard deviation."""
        return sqrt(max(self._sum_s2 / self._count - self.mean_s**2, 0.0)) if self._count else 0.0

    def add(self, sum_s: float, count: float, seconds: float, sum_s2: float = 0.0) -> None:
        kept = MEMORY**seconds
        self._sum_s = self._sum_s * kept + sum_s
        self._sum_s2 = self._sum_s2 * kept + sum_s2
        self._count = self._count * kept + count

    def forget(self) -> None:
        """What was seen before the step says little of what comes after it."""
        self._sum_s *= 0.2
        self._sum_s2 *= 0.2
        self._count *= 0.2
