"""The gate in front of the simulated engine's scheduler, in virtual time: hours of load in seconds, without noise.

The ledger, the limit and the scheduler are the real ones, driven by a queue of events instead of a clock; no socket
and no process is in it, so what it says of throughput is what the rules do, and nothing of what a gateway costs. The
same arrivals give the same outcomes, to the last bit. It is where an order or a controller is tried before it is
measured, and what the tests of goodput run on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from headgate.gate import Ledger
from headgate.gate.entries import NOBODY, Claim, Ticket
from headgate.gate.limits import Limit, Reading
from headgate.gate.outcomes import Decision, Granted, Refused, Verdict, Waiting
from headgate.gate.slots import NONE_ENDED
from headgate.gate.timely import first_within_s
from headgate.simulator import sequence as engine
from headgate.simulator.constants import Constants, Limits
from headgate.simulator.scheduler import Scheduler

ENGINE = "e0"
LOOK_S = 1.0
"""How often the limit reads the engine."""


@dataclass(slots=True, eq=False)
class Job:
    """One request of a rehearsal, and what became of it. Moments are seconds from its beginning.

    Attributes:
        patience_s: leaves the line after so long.
        refused: the reason, where it was.
        gap_s: the mean time between its tokens; None where there were not two.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    claim: Claim = NOBODY
    patience_s: float = inf
    granted_s: float | None = None
    first_s: float | None = None
    end_s: float | None = None
    refused: str | None = None
    gap_s: float | None = None

    @property
    def ttft_s(self) -> float | None:
        """From its arrival to its first token."""
        return None if self.first_s is None else self.first_s - self.at_s


@dataclass(frozen=True, slots=True)
class Objective:
    """What a good answer is; None: no such objective."""

    ttft_s: float | None = 1.0
    itl_s: float | None = 0.1
    latency_s: float | None = None

    def met(self, job: Job) -> bool:
        """Whether it was served, and well."""
        return (
            job.end_s is not None
            and job.ttft_s is not None
            and (self.ttft_s is None or job.ttft_s <= self.ttft_s)
            and (self.itl_s is None or job.gap_s is None or job.gap_s <= self.itl_s)
            and (self.latency_s is None or job.end_s - job.at_s <= self.latency_s)
        )


def poisson(
    rate: float,
    seconds: float,
    shape: Callable[[random.Random], tuple[int, int]],
    *,
    seed: int,
    claim: Claim = NOBODY,
) -> list[Job]:
    """Arrivals at ``rate`` a second that don't wait for each other; ``shape`` draws prompt and answer in tokens."""
    dice = random.Random(seed)
    jobs: list[Job] = []
    at_s = dice.expovariate(rate)
    while at_s < seconds:
        jobs.append(Job(at_s, *shape(dice), claim=claim))
        at_s += dice.expovariate(rate)
    return jobs


def goodput(jobs: Iterable[Job], objective: Objective, from_s: float, to_s: float) -> float:
    """Good answers a second, of the requests that arrived between the two moments."""
    return sum(objective.met(job) for job in jobs if from_s <= job.at_s < to_s) / (to_s - from_s)


@dataclass(slots=True)
class _Seen:
    """What the engine showed since the limit's last look."""

    gaps_s: float = 0.0
    gaps: int = 0
    firsts_s: float = 0.0
    firsts_s2: float = 0.0
    firsts: int = 0
    preempted: int = 0


@dataclass
class Rehearsal:
    """One engine, and the gate in front of it where there is one.

    Args:
        ledger: None: everything goes to the engine at once.
        limit: moves the ledger's slots; where there is none they stay at ``slots``.
        slots: at the beginning; the engine's own number where None.
        objective: says how soon each must begin; where there is none, its claim does.

    Attributes:
        history: the slots after each of the limit's looks.
    """

    constants: Constants
    limits: Limits
    ledger: Ledger | None = None
    limit: Limit | None = None
    slots: int | None = None
    objective: Objective | None = None
    history: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.constants, self.limits)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self._jobs: dict[engine.Sequence, Job] = {}
        self._tickets: dict[Job, Ticket] = {}
        self._of: dict[Ticket, Job] = {}
        self._stepping = False
        self._seen = _Seen()
        self._ended_before = NONE_ENDED
        self._tick_at = inf
        self._next_at = -inf

    def run(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Play it through, until all have ended; the same jobs, filled in."""
        self._events = [(job.at_s, next(self._numbers), self._arrival(job)) for job in jobs]
        heapify(self._events)
        if self.ledger is not None:
            self._verdicts(0.0, self.ledger.resize(0.0, ENGINE, self.slots or self.limits.max_num_seqs))
            self._at(LOOK_S, self._look)
        self._left = len(jobs)
        while self._left and self._events:
            now, _, event = heappop(self._events)
            event(now)
            self._step(now)
        return jobs

    def _at(self, at_s: float, event: Callable[[float], None]) -> None:
        heappush(self._events, (at_s, next(self._numbers), event))

    # The client's side.

    def _arrival(self, job: Job) -> Callable[[float], None]:
        return lambda now: self._arrive(now, job)

    def _arrive(self, now: float, job: Job) -> None:
        if self.ledger is None:
            self._start(now, job)
            return
        self._verdicts(now, self.ledger.tick(now))
        decision: Decision = self.ledger.offer(now, claim=self._claim(job))
        self._tickets[job] = decision.ticket
        self._of[decision.ticket] = job
        if isinstance(decision, Waiting):
            if job.patience_s < inf:
                self._at(now + job.patience_s, lambda then: self._give_up(then, job))
            if decision.displaced is not None:
                self._verdicts(now, [decision.displaced])
        else:
            self._verdicts(now, [decision])
        self._verdicts(now, self.ledger.tick(now))
        self._arm(now)

    def _claim(self, job: Job) -> Claim:
        """Its own, and how soon it must begin, as the gateway says it at its arrival."""
        asked = self.objective
        if asked is None or self.ledger is None:
            return job.claim
        return job.claim._replace(within_s=first_within_s(asked.ttft_s, asked.latency_s, self.ledger.long_hold_s))

    def _give_up(self, now: float, job: Job) -> None:
        ticket = self._tickets.get(job)
        if ticket is not None and ticket.waiting and self.ledger is not None:
            job.refused = "left"
            self._ended(job)
            self._verdicts(now, self.ledger.leave(now, ticket))

    # The gate.

    def _verdicts(self, now: float, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            job = self._of[verdict.ticket]
            if isinstance(verdict, Granted):
                self._start(now, job)
            else:
                assert isinstance(verdict, Refused)
                job.refused = str(verdict.reason)
                self._ended(job)

    def _arm(self, now: float) -> None:
        assert self.ledger is not None
        deadline = self.ledger.next_deadline(now)
        if deadline is not None and deadline < self._tick_at:
            self._tick_at = deadline
            self._at(deadline, self._tick)

    def _tick(self, now: float) -> None:
        assert self.ledger is not None
        self._tick_at = inf
        self._verdicts(now, self.ledger.tick(now))
        self._arm(now)

    def _look(self, now: float) -> None:
        assert self.ledger is not None
        seen, self._seen = self._seen, _Seen(preempted=self.scheduler.preemptions)
        if seen.gaps:
            self.ledger.tempo(seen.gaps_s / seen.gaps)
        self._at(now + LOOK_S, self._look)
        if self.limit is None:
            return
        ended, before = self.ledger.ended_on(ENGINE), self._ended_before
        self._ended_before = ended
        slots = self.limit.read(
            Reading(
                seconds=LOOK_S,
                active=self.ledger.active,
                wanted=self.ledger.wanting > 0,
                gaps_s=seen.gaps_s,
                gaps=seen.gaps,
                firsts_s=seen.firsts_s,
                firsts_s2=seen.firsts_s2,
                firsts=seen.firsts,
                in_time=ended.in_time - before.in_time,
                begun=ended.firsts - before.firsts,
                holds_s=ended.held_s - before.held_s,
                holds_s2=ended.held_s2 - before.held_s2,
                holds=ended.number - before.number,
                preempted=self.scheduler.preemptions - seen.preempted,
                running=len(self.scheduler.running),
                waiting=len(self.scheduler.waiting),
                kv_usage=self.scheduler.blocks.used / self.scheduler.blocks.total,
                held_back=self.ledger.held_back_on(ENGINE),
            )
        )
        self.history.append(slots)
        self._verdicts(now, self.ledger.resize(now, ENGINE, slots))
        self._verdicts(now, self.ledger.pace(now, ENGINE, self.limit.pace_s))
        self._arm(now)

    # The engine.

    def _start(self, now: float, job: Job) -> None:
        job.granted_s = now
        sequence = engine.Sequence(job.prompt_tokens, job.output_tokens)
        self._jobs[sequence] = job
        self.scheduler.add(sequence, now)

    def _step(self, now: float) -> None:
        if self._stepping:
            return
        step = self.scheduler.begin(now)
        if step is not None:
            self._stepping = True
            self._at(now + step.seconds, lambda then: self._stepped(then, step))
        elif (next_s := self.scheduler.next_s) is not None and next_s != self._next_at:
            self._next_at = next_s
            self._at(next_s, lambda _: None)  # whatever happens, the engine is looked at after it

    def _stepped(self, now: float, step: engine.Step) -> None:
        self._stepping = False
        made = self.scheduler.end(step, now)
        seen = self._seen
        for gap_s, times in made.gaps.items():
            seen.gaps_s += gap_s * times
            seen.gaps += times
        for sequence in made.first:
            job = self._jobs[sequence]
            job.first_s = now
            first_s = now - sequence.arrived_s
            seen.firsts_s += first_s
            seen.firsts_s2 += first_s * first_s
            seen.firsts += 1
            if self.ledger is not None:
                self.ledger.first_token(now, self._tickets[job])
        for sequence in made.ended:
            job = self._jobs.pop(sequence)
            job.end_s = now
            if sequence.made > 1 and job.first_s is not None:
                job.gap_s = (now - job.first_s) / (sequence.made - 1)
            self._ended(job)
            if self.ledger is not None:
                ticket = self._tickets[job]
                self.ledger.settle(ticket, job.prompt_tokens + job.output_tokens)
                self._verdicts(now, self.ledger.leave(now, ticket))
        if self.ledger is not None and made.ended:
            self._arm(now)

    def _ended(self, job: Job) -> None:
        self._left -= 1
