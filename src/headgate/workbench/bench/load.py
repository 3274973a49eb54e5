"""The load itself: sends each request when it is due, and keeps what became of it.

Open: requests are due by a schedule that was fixed before the first was sent; none waits for an answer. Closed: each
of N users sends its next request when its last has ended. Either way a request's time counts from the moment it was
due, not from the moment it got out: what a slow server, or this client, makes it wait is part of what it lived through
(otherwise a server that stalls would hold back the very requests that show it: coordinated omission).

Bounded in every direction: requests, time, requests in flight, the wait for the last ones.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from time import monotonic

from headgate.relay.upstream import Exchange, Unreachable, Upstream
from headgate.workbench.bench import arrivals
from headgate.workbench.bench.answer import Answer, Seen
from headgate.workbench.bench.callers import Caller, Drawn, backlog, divided
from headgate.workbench.bench.raw import End, Outcome, Plan, Record, Try
from headgate.workbench.bench.target import Aim
from headgate.workbench.bench.trace import Entry
from headgate.workbench.bench.watch import Watch, undisturbed
from headgate.workbench.bench.workload import Ask, workload

_IDLE_S = 2.0
"""A connection idle for longer is not used again: servers close theirs after as little as 5 s."""

_STALE_S = 1.0
"""A kept connection that had been closed before is found out by then; one that is closed later had the request."""

_TOLD_NOTHING_S = 1.0
"""How long one waits who obeys a refusal that names no time."""

_NOBODY_THERE_S = 1.0
"""How long a user of a closed loop waits when nobody takes the connection: it counted how fast a client can fail."""

Recent = deque[tuple[float, float]]


@dataclass(slots=True)
class Progress:
    """How far it is, for whoever looks on, from another thread too; the last times and tokens as (when, how much)."""

    started_at: float = 0.0
    due: int = 0
    in_flight: int = 0
    waiting: int = 0
    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    reasons: dict[str, int] = field(default_factory=dict)
    late_s: float = 0.0
    first_s: Recent = field(default_factory=lambda: deque(maxlen=2048))
    latency_s: Recent = field(default_factory=lambda: deque(maxlen=2048))
    tokens_at: Recent = field(default_factory=lambda: deque(maxlen=2048))
    draining: bool = False


@dataclass(slots=True)
class _One:
    """One request on its way."""

    number: int
    at: float
    caller: Caller
    ask: Ask
    late_s: float = 0.0
    is_reached: bool = True
    tries: list[Try] = field(default_factory=list)


class Load:
    """One load on one target.

    Args:
        plan: what, and when.
        aim: to whom.
        callers: who, with their keys; those of the plan.
        entries: of the plan's trace.
    """

    def __init__(self, plan: Plan, aim: Aim, callers: Sequence[Caller], entries: Sequence[Entry] = ()) -> None:
        self.plan, self._aim = plan, aim
        self._callers = {caller.name: caller for caller in callers}
        self._order = list(callers)
        self._entries = entries
        self._workload = workload(plan, aim.scale, entries)
        self._heads = {caller.name: aim.head(caller) for caller in callers}
        self.progress = Progress()
        self.records: list[Record] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Event | None = None
        self._start = 0.0
        self._most = 0

    async def run(self) -> End:
        """All of it; every request that was due has its record afterwards."""
        address = self._aim.address
        self._upstream = Upstream(
            address.host, address.port, tls=address.tls, idle_s=_IDLE_S, connect_timeout_s=self.plan.timeout_s
        )
        self._stopped = asyncio.Event()
        watch = Watch()
        with undisturbed():
            watch.start()
            self._start = self.progress.started_at = monotonic()
            sending = asyncio.create_task(self._closed() if self.plan.users is not None else self._open())
            interrupted = await self._until_done(sending)
            ended = monotonic()
            cpu_s = watch.cpu_s
            await watch.stop()
        self._upstream.close()
        self.records.sort(key=lambda record: record.n)
        last = max((record.at_s + record.latency_s for record in self.records), default=ended - self._start)
        return End(
            span_s=round(last, 6),
            offered_s=round(self._offered_s(ended), 6),
            cpu_s=round(cpu_s, 4),
            lags_ms=watch.lags_ms,
            interrupted=interrupted,
            max_in_flight=self._most,
        )

    def stop(self) -> None:
        """End it now: nothing more is sent, and what is in flight is unfinished. Safe in a signal handler."""
        if self._stopped is not None:
            self._stopped.set()

    def _offered_s(self, ended: float) -> float:
        """For how long requests were due: what was planned, less where a bound or a hand ended it sooner."""
        if self.plan.users is not None:
            return ended - self._start
        if self._cut_at is not None:
            return self._cut_at
        return self.plan.duration_s

    # Its life.

    _cut_at: float | None = None
    """When the sending ended, where it ended before its time."""

    async def _until_done(self, sending: asyncio.Task[None]) -> bool:
        """Wait for the sending and for the last answers, or for a stop; whether it was a stop."""
        assert self._stopped is not None
        stop = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait([sending, stop], return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                await sending
                self.progress.draining = True
                left = self._tasks
                if left:
                    drain = asyncio.ensure_future(asyncio.wait(left, timeout=self.plan.drain_s))
                    await asyncio.wait([drain, stop], return_when=asyncio.FIRST_COMPLETED)
                    drain.cancel()
            elif self.plan.users is None:
                self._cut_at = monotonic() - self._start
            return stop.done()
        finally:
            stop.cancel()
            sending.cancel()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(sending, *self._tasks, return_exceptions=True)

    async def _open(self) -> None:
        drawn = Drawn(self._order, self.plan.seed)
        latest = 0.0
        for number, (at_s, name) in enumerate(self._schedule()):
            caller = self._callers[name] if name in self._callers else drawn.next()
            # A conversation's next turn depends on what has been answered by then; all else is made ready ahead.
            ask = None if self.plan.workload == "conversation" else self._workload.ask(number, caller.name)
            body = None if ask is None else self._aim.body(self.plan, ask)
            at = self._start + at_s
            wait_s = at - monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # many at once, or late: answers must be read all the same
            if ask is None:
                ask = self._workload.ask(number, caller.name)
            latest = at_s
            one = _One(number, at, caller, ask, max(0.0, monotonic() - at))
            self._launch(one, body)
        if self._bounded_early(latest):
            self._cut_at = latest + self._to_the_next_s(latest)

    def _bounded_early(self, latest: float) -> bool:
        """Whether the number of requests, or a trace's end, ended the sending before its time."""
        return self.progress.due >= self.plan.requests or (self.plan.rate is None and latest < self.plan.duration_s)

    def _to_the_next_s(self, latest: float) -> float:
        """Until another would have been due, in an even load: five in 40 ms, 10 ms apart, are 100 a second, not 125.

        Of a Poisson process the last arrival is where it ends: so many arrivals take that long on average.
        """
        plan = self.plan
        if plan.rate is None or plan.arrivals == "poisson":
            return 0.0
        rate = arrivals.shape(plan.rate, plan.duration_s).rate_at(latest)
        return min(1 / rate, plan.duration_s - latest) if rate > 0 else 0.0

    def _schedule(self) -> Iterator[tuple[float, str]]:
        """When, and whose; with no name where chance decides."""
        plan = self.plan
        if plan.rate is None:
            due = ((entry.arrival_s / plan.speed, entry.caller or "") for entry in self._entries)
            return islice((pair for pair in due if pair[0] < plan.duration_s), plan.requests)
        shape = arrivals.shape(plan.rate, plan.duration_s)
        dice = random.Random(f"{plan.seed}/arrivals")
        distances = arrivals.poisson(dice) if plan.arrivals == "poisson" else arrivals.even()
        at_once = ((0.0, name) for name in backlog(self._order))
        return islice(chain(at_once, ((at_s, "") for at_s in arrivals.times(shape, distances))), plan.requests)

    async def _closed(self) -> None:
        assert self.plan.users is not None
        users = divided(self._order, self.plan.users)
        await asyncio.gather(*(self._user(caller) for caller in users))

    async def _user(self, caller: Caller) -> None:
        """One user: sends, waits for the end, thinks, sends again; what it still waits for at the end is drained."""
        plan = self.plan
        end = self._start + plan.duration_s
        while (at := monotonic()) < end and self.progress.due < plan.requests:
            number = self.progress.due
            ask = self._workload.ask(number, caller.name)
            one = _One(number, at, caller, ask)
            task = self._launch(one, None)
            done, _ = await asyncio.wait([task], timeout=end - at)
            if not done:
                return
            pause_s = max(plan.think_s, 0.0 if one.is_reached else _NOBODY_THERE_S)
            if pause_s:
                await asyncio.sleep(min(pause_s, max(0.0, end - monotonic())))

    def _launch(self, one: _One, body: bytes | None) -> asyncio.Task[None]:
        progress = self.progress
        progress.due += 1
        progress.in_flight += 1
        progress.late_s = one.late_s
        self._most = max(self._most, progress.in_flight)
        task = asyncio.get_running_loop().create_task(self._see_through(one, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # One request.

    async def _see_through(self, one: _One, body: bytes | None) -> None:
        seen = Seen(Outcome.UNFINISHED, reason="run_ended")
        try:
            if self.plan.users is None and self.progress.in_flight > self.plan.max_in_flight:
                seen = Seen(reason="client_limit", ended_at=monotonic())
                return
            content = self._aim.body(self.plan, one.ask) if body is None else body
            request = self._heads[one.caller.name] % len(content) + content
            while True:
                seen = Seen(Outcome.UNFINISHED, reason="run_ended")  # what it is if this task is cancelled
                sent = monotonic()
                seen = await self._exchange(request, one)
                if not self._comes_again(one, seen):
                    return
                told_s = seen.retry_after_s if seen.retry_after_s is not None else _TOLD_NOTHING_S
                one.tries.append(
                    Try(
                        at_s=round(sent - self._start, 6),
                        status=seen.status,
                        reason=seen.reason,
                        took_s=round(seen.ended_at - sent, 6),
                        retry_after_s=told_s,
                    )
                )
                self.progress.waiting += 1
                seen = Seen(Outcome.UNFINISHED, reason="run_ended")
                try:
                    await asyncio.sleep(told_s)
                finally:
                    self.progress.waiting -= 1
        finally:
            self._keep(one, seen)

    def _comes_again(self, one: _One, seen: Seen) -> bool:
        """Whether it obeys this refusal: it comes again while its patience will not be over by then."""
        if not self.plan.obey_retry_after or seen.outcome is not Outcome.REFUSED:
            return False
        told_s = seen.retry_after_s if seen.retry_after_s is not None else _TOLD_NOTHING_S
        return seen.ended_at + told_s - one.at <= self.plan.patience_s

    async def _exchange(self, request: bytes, one: _One) -> Seen:
        """One request on a connection; a kept one that turns out to be closed is replaced, as every client does it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.plan.timeout_s
        while True:
            done: asyncio.Future[None] = loop.create_future()
            answer = Answer(stream=self.plan.stream, keep=one.ask.keep, ended=partial(_set, done))
            exchange: Exchange | None = self._upstream.idle()
            kept = exchange is not None
            sent = monotonic()
            try:
                async with asyncio.timeout_at(deadline):
                    if exchange is None:
                        exchange = await self._upstream.connect()
                    exchange.send(request, answer)
                    await done
            except Unreachable:
                one.is_reached = False
                answer.give_up("no_connection")
            except TimeoutError:
                answer.give_up("client_timeout")
            finally:
                if exchange is not None and not done.done():
                    exchange.abort()  # cancelled: the run is over
            if answer.seen.reason == "client_timeout" and exchange is not None:
                exchange.abort()
            seen = answer.seen
            if not (kept and seen.broken_unanswered and seen.ended_at - sent < _STALE_S):
                return seen

    def _keep(self, one: _One, seen: Seen) -> None:
        now = seen.ended_at or monotonic()
        estimated = seen.completion_tokens is None and (seen.events > 0 or seen.outcome is Outcome.OK)
        self._workload.ended(one.ask, one.caller.name, seen.text if seen.outcome is Outcome.OK else None)
        record = Record(
            n=one.number,
            at_s=round(one.at - self._start, 6),
            late_s=round(one.late_s, 6),
            caller=one.caller.name,
            outcome=seen.outcome,
            status=seen.status,
            reason=seen.reason,
            # A loop's timer may wake a little early, and a refused connection takes less than that.
            ttft_s=round(max(0.0, seen.first_at - one.at), 6) if seen.first_at else None,
            latency_s=round(max(0.0, now - one.at), 6),
            prompt_tokens=seen.prompt_tokens,
            tokens=seen.events if seen.completion_tokens is None else seen.completion_tokens,
            estimated=estimated,
            asked_tokens=one.ask.output_tokens,
            gaps_ms=seen.gaps_ms or [],
            retry_after_s=seen.retry_after_s,
            queue_ms=seen.queue_ms,
            engine=seen.engine,
            conversation=one.ask.conversation,
            turn=one.ask.turn,
            tries=one.tries,
        )
        self.records.append(record)
        self._tell(record, now)

    def _tell(self, record: Record, now: float) -> None:
        progress = self.progress
        progress.in_flight -= 1
        progress.ended[record.outcome] += 1
        progress.tokens_at.append((now, float(record.tokens)))
        if record.outcome is not Outcome.OK:
            said = f"{record.status} {record.reason}" if record.status else record.reason
            progress.reasons[said] = progress.reasons.get(said, 0) + 1
            return
        progress.latency_s.append((now, record.latency_s))
        if record.ttft_s is not None:
            progress.first_s.append((now, record.ttft_s))


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
