"""The request's way, top to bottom: a slot, an engine, the answer, the books.

The only module that joins the stops. It knows no web framework: a ``Call`` came from somewhere, a ``Sink`` takes the
answer. What is tried again is decided here and nowhere else: nothing after the first byte; before it, a request whose
engine failed goes back to the head of the line once, and one that was there at two failures is refused.

What is known of a request is in ``call``, what is written down at its end in ``books``. Long for what is left, since it
is one way: each part of it hands to the next what the request has come to.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Protocol

from headgate import openai
from headgate.books import Books
from headgate.call import Asker, Call, Life, Limits, Route, priority
from headgate.errors import Reason, Refusal
from headgate.gate import Claim, Estimate, Gate, Lease, Shedder
from headgate.gate.bookings import Bookings
from headgate.gate.interval import NO_STREAMS, Streams
from headgate.gate.rates import Charge
from headgate.gate.timely import first_within_s
from headgate.quotas import Quotas
from headgate.quotas import refusal as refusal_of
from headgate.relay.expiry import Expiry
from headgate.relay.holds import Holds
from headgate.relay.reply import Ending, EngineBroke, PutBack, Reply, Sink, Slot, StaleConnection
from headgate.relay.upstream import Unreachable
from headgate.relay.usage import Pieces
from headgate.telemetry.logs import RequestLog
from headgate.telemetry.metrics import OTHER, Metrics
from headgate.telemetry.slo import LEFT, OK
from headgate.telemetry.tracecontext import TraceContext

if TYPE_CHECKING:
    from headgate.telemetry.tracing import Tracer

log = logging.getLogger(__name__)

PLACES_TOLD = 1000
"""Who stands further behind in the line is told its place when it has moved up so far."""

GIVEN_UP_S = 60.0
"""When to ask again after an engine that was given up on: as late as SDKs believe."""

BOOKED = frozenset((Reason.SLOTS_BUSY, Reason.QUEUE_FULL, Reason.WAIT_TOO_LONG, Reason.SHED, Reason.QUEUE_TIMEOUT))
"""Refused for want of room: a return at the time that was told is known (``gate.bookings``)."""

BATCH_MOST = 1024
"""A caller may ask for two thousand million sequences, and is refused by the engine; the sum shouldn't remember it."""


class Engines(Protocol):
    """What the flow asks of the engines."""

    def route(self, engine: str) -> Route:
        """Raises Unreachable where the engine has just gone."""
        ...

    def suspect(self, engine: str) -> None:
        """The engine failed a request: grant nothing on it until it has been looked at."""
        ...

    def served(self, engine: str) -> None:
        """The engine answered a request."""
        ...

    async def recovered(self, engine: str) -> bool:
        """Wait until that is clear: whether the engine lives on, and what it said was an answer."""
        ...

    def any_ready(self) -> str | None: ...

    def given_up(self) -> bool:
        """Whether none will be ready until somebody mends it."""
        ...

    def serves(self, model: str) -> bool | None:
        """Whether an engine serves this model; None while nobody knows."""
        ...

    def eta_s(self) -> float | None:
        """Seconds until an engine should be ready; None where nobody knows."""
        ...


class _NoSlot:
    """Stands for the slot of a call that takes none."""

    def release(self) -> None:
        return


class Flow:
    """Serves calls. One for the process, on its event loop.

    Args:
        clock: seconds, monotonic; the same that the gate and the calls' ``arrived`` use.
        shedder: refuses some by chance where the load is high; None: it refuses nobody.
        charge: makes a lease one whose time is paid for, by model and key; None: nothing costs.
        quotas: what callers may ask for in a minute; None: nobody has a limit.
        bookings: who was told to come back goes before who is new; None: all are new.
        tracer: where requests' spans go; None: nowhere, and a caller's trace is passed on as it came.
    """

    def __init__(
        self,
        gate: Gate,
        engines: Engines,
        metrics: Metrics,
        log: RequestLog,
        limits: Limits,
        clock: Callable[[], float],
        charge: Callable[[Lease, str, str], Slot] | None = None,
        tracer: Tracer | None = None,
        shedder: Shedder | None = None,
        quotas: Quotas | None = None,
        bookings: Bookings | None = None,
    ) -> None:
        self._gate = gate
        self._engines = engines
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._charge = charge
        self._quotas = quotas
        self._bookings = bookings
        self._tracer = tracer
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._boot = os.urandom(4).hex()
        self._expiry = Expiry[Reply](self._loop, clock, self._expire)
        self._holds = Holds(self._loop, clock, limits.status_hold_s)
        self._side_calls = 0
        self._batches = metrics.batch_size.at()
        self._running: dict[Reply, str] = {}
        self._ranks: dict[Reply, int] = {}
        self._relayed: dict[str, int] = {}
        self._streams: dict[str, Streams] = {}
        self._tokens_of_streams = 0
        self._estimate = Estimate()
        self._shedder = shedder
        self._books = Books(gate, metrics, log, limits.slo, clock, self._estimate, shedder, quotas)

    @property
    def request_timeout_s(self) -> float:
        """How long a whole request may take."""
        return self._limits.request_timeout_s

    def new_id(self) -> str:
        """An id of ours: unique over gateways and restarts, never taken from a caller."""
        return f"hg-{self._boot}-{next(self._numbers):x}"

    def relayed(self, engine: str) -> int:
        """Events that have come from this engine, ever: a sign of its progress."""
        self.count()
        live = sum(reply.events for reply, name in self._running.items() if name == engine)
        return self._relayed.get(engine, 0) + live

    @property
    def events(self) -> int:
        """Events of streams that have passed, ever."""
        return sum(self._relayed.values()) + sum([reply.events for reply in self._running])

    @property
    def tokens(self) -> int:
        """Tokens that have gone to clients, ever: a stream's as events pass, a whole reply's at its end."""
        live = sum([reply.tokens for reply in self._running])
        return self._tokens_of_streams + live + self._books.tokens_of_whole

    def streams(self, engine: str) -> Streams:
        """What this engine's streams have told that have ended, ever: those that may be asked for larger events."""
        return self._streams.get(engine, NO_STREAMS)

    def count(self) -> None:
        """Bring the figures of running streams up to date, for a scrape."""
        for reply in self._running:
            reply.count()

    def tell_places(self) -> None:
        """Tell those who wait and asked for it where they stand; to be called about once a second."""
        if not self._gate.waiting:
            return
        line, _ = self._gate.outlook(PLACES_TOLD)
        for position, waiter in enumerate(line, 1):
            if isinstance(waiter.who, Asker) and waiter.who.tells_place:
                eta = "" if waiter.eta_s is None else f" eta_s={ceil(waiter.eta_s)}"
                waiter.who.reply.comment(f"queued position={position}{eta}")

    def cut_all(self, refusal: Refusal) -> int:
        """End every answer under way with ``refusal``; how many there were."""
        running = list(self._running)
        for reply in running:
            reply.expire(refusal)
        return len(running)

    async def serve(self, call: Call, sink: Sink, refuse: Callable[[Refusal], int]) -> None:
        """Answer ``call`` on ``sink``, whatever happens. Never raises.

        ``refuse`` writes a refusal while no head has gone out, and returns its status. A client that leaves cancels
        the task that awaits this; the cancellation ends here, with the books done.
        """
        model_asked = call.asked.model
        known = self._engines.serves(model_asked)
        life = Life(model_asked if known else OTHER)
        if self._tracer is not None:
            life.trace = self._tracer.begin(call.route, life.model, call.trace, call.arrived, self._clock())

        def first(ttft_s: float) -> None:
            if life.lease is not None:
                life.lease.first_token()
            self._metrics.ttft.at((life.model,)).observe_example(ttft_s, *life.example, time.time())

        reply = Reply(
            sink,
            call.plan,
            loop=self._loop,
            clock=self._clock,
            arrived=call.arrived,
            headers=openai.id_headers(call.plan.dialect, call.request_id),
            first=first,
            gap=self._metrics.inter_token.at((life.model,)).observe,
            trouble=lambda: self._engines.suspect(life.engine),
            retry_after_s=lambda: self._engines.eta_s() or 1.0,
        )
        try:
            if known is False:
                what = f"The model `{openai.shortened(model_asked)}` is not served here; GET /v1/models lists what is."
                raise Refusal(Reason.NOT_FOUND, what, param="model")
            if call.rights is not None and not call.rights.allows(model_asked):
                what = f"This key may not use the model `{openai.shortened(model_asked)}`."
                raise Refusal(Reason.FORBIDDEN, what, param="model")
            if self._quotas is not None:
                expected = partial(self._expected, call) if call.gated else None
                if charges := self._quotas.charges(call.rights, expected):
                    await self._take(self._quotas, charges, call, reply, life)
            ending = await (self._gated(call, reply, life) if call.gated else self._aside(call, reply, life))
        except Refusal as refusal:
            aside_s = life.lease.aside_s if life.lease is not None else 0.0
            self._leave_line(life, refusal.reason, aside_s=max(refusal.aside_s - aside_s, 0.0))
            life.for_own |= refusal.for_own
            ending = self._refuse(call, reply, life, refusal, refuse)
        except Exception:
            log.exception("request %s: the gateway itself failed", call.request_id)
            self._leave_line(life, Reason.ENGINE_FAILED)
            why = Refusal(Reason.ENGINE_FAILED, "The gateway itself failed at this request; its log says how.")
            ending = self._refuse(call, reply, life, why, refuse)
        except asyncio.CancelledError:
            ending = reply.told_whole or self._left(reply, life)  # SDKs close at [DONE], before the engine's body ends
        self._books.close(call, reply, ending, life)

    def _left(self, reply: Reply, life: Life) -> Ending:
        """The client is gone, and didn't get what it asked for."""
        stage = "queued" if life.queued_since is not None else "streaming" if reply.committed else "waiting_first"
        self._leave_line(life, "left")
        self._metrics.cancelled.add((stage,))
        return Ending(499, LEFT, stage)

    async def _take(self, quotas: Quotas, charges: Sequence[Charge], call: Call, reply: Reply, life: Life) -> None:
        """Raises Refusal: ``rate_limited``."""
        taken = await quotas.take(charges)
        call.told += taken.headers()
        refused = refusal_of(taken)
        if refused is not None:
            raise refused
        life.taken = taken
        reply.headers += call.told

    def _expected(self, call: Call) -> float:
        """Tokens that it is expected to take."""
        asked = call.asked
        return self._estimate.tokens(call.key, call.prompt_bytes, asked.max_tokens, asked.sequences)

    def _refuse(
        self, call: Call, reply: Reply, life: Life, refusal: Refusal, refuse: Callable[[Refusal], int]
    ) -> Ending:
        if self._bookings is not None and refusal.reason in BOOKED and refusal.told_s and not reply.started:
            self._bookings.book(self._clock(), _mark(call), refusal.told_s)
            if life.booked:
                self._metrics.returns.add(("refused",))
        if not reply.committed:
            self._metrics.refusals.add((refusal.reason, priority(call.rank), life.model, call.key))
        if reply.started:
            return reply.tell_late(refusal)
        return Ending(refuse(refusal), refusal.reason, refusal.message)

    # With slots.

    async def _gated(self, call: Call, reply: Reply, life: Life) -> Ending:
        lease: Lease | None = None
        kept: Lease | None = None
        tells = call.tells_place and call.plan.streamed
        who = Asker(call.key, life.model, call.plan.streamed, call.asked.max_tokens, reply, tells)
        claim = self._claim(call)
        life.booked = claim.booked
        if not life.booked:
            self._shed(call)
        ids = len(reply.headers)
        while True:
            life.queued_since = self._clock()
            waking_s, aside_s = (lease.waking_s, lease.aside_s) if lease is not None else (0.0, 0.0)
            free = (
                self._gate.acquire_nowait(weight=call.asked.sequences, claim=claim, who=who) if lease is None else None
            )
            if free is None and lease is None and self._engines.given_up():
                raise _given_up()
            if free is None and life.trace is not None:
                life.trace.waits(unready=self._engines.any_ready() is None)
            lease = free or await self._gate.acquire(
                weight=call.asked.sequences,
                size_bytes=len(call.body),
                request_timeout_s=self._until(call, lease) - self._clock(),
                after=None if kept is not None else lease,
                kept=kept,
                claim=claim,
                who=who,
                on_wait=partial(self._take_a_slot, call.rank) if self._limits.preempt else None,
            )
            kept = None
            if life.booked:
                life.booked = False
                self._metrics.returns.add(("granted",))
            self._leave_line(life, "granted", lease.waking_s - waking_s, aside_s=lease.aside_s - aside_s)
            life.engine = lease.engine
            life.lease = lease
            life.for_own |= lease.for_own
            life.at_engine = True
            if lease.predicted_s is not None:
                off_s = lease.waited_s - lease.predicted_s
                direction = "longer" if off_s > 0 else "shorter"
                self._metrics.prediction_error.at((direction,)).observe(abs(off_s))
            if life.model is OTHER and self._engines.serves(call.asked.model):
                self._name(call.asked.model, life, reply, who)
            reply.queue_s = lease.waited_s + lease.waking_s
            reply.headers[ids:] = [
                (b"x-headgate-queue-ms", b"%.1f" % (reply.queue_s * 1e3)),
                (b"x-headgate-engine", lease.engine.encode()),
            ]
            slot = lease if self._charge is None else self._charge(lease, life.model, call.key)
            try:
                return await self._exchange(call, reply, life, slot, self._until(call, lease))
            except PutBack:
                life.at_engine = False
                kept = lease
                self._gate.settle(lease, 0.0)  # it is charged when it gets slots again
            except EngineBroke as broke:
                life.at_engine = False
                life.failures += 1
                if life.failures > 1 and broke.answer is None:
                    what = f"The engine failed twice at this request; the last time, {broke}."
                    raise Refusal(Reason.ENGINE_FAILED, what) from None
                # One that is dying may look well for a moment more: the only other try is not for that moment.
                if await self._engines.recovered(lease.engine) and broke.answer is not None:
                    return reply.pass_on(broke.answer)  # the engine lives: this answer was meant for this request
                if life.failures > 1:
                    what = f"An engine died at each of this request's two tries; at the second, {broke}."
                    raise Refusal(Reason.ENGINE_FAILED, what) from None

    def _take_a_slot(self, rank: int) -> None:
        """Put the least urgent of those who hold slots back in line, if it is less urgent and has been sent nothing.

        Of equals the one that was granted last: the engine has done least for it. Of one turn of the loop each takes
        another's; where a slot that is given back could be granted to nobody, everyone keeps theirs.
        """
        worst: Reply | None = None
        worst_rank = rank
        for reply, engine in reversed(self._running.items()):
            if (
                self._ranks.get(reply, rank) > worst_rank
                and reply.can_be_put_back
                and self._gate.grants_what_is_given_back(engine)
            ):
                worst, worst_rank = reply, self._ranks[reply]
        if worst is not None:
            worst.put_back()

    def _shed(self, call: Call) -> None:
        """Raises Refusal: ``shed``, by chance, where the load is high."""
        if self._shedder is None:
            return
        chance = self._shedder.chance(self._gate.wanting, self._limits.queue_max, call.rank)
        if chance and random.random() < chance:  # noqa: S311  chance, not a secret
            raise self._gate.turn_away(Reason.SHED, call.asked.sequences)

    def _claim(self, call: Call) -> Claim:
        """What its place in the line depends on."""
        slo = self._limits.slo
        ttft_s = slo.ttft_s if call.plan.streamed else None
        within_s = first_within_s(ttft_s, slo.latency_s, self._gate.long_hold_s())
        return Claim(
            key=call.key,
            user=call.user,
            share=1.0 if call.rights is None else call.rights.weight,
            rank=call.rank,
            tokens=self._expected(call),
            within_s=min(within_s, call.deadline_s),
            deadline_s=call.deadline_s,
            most=None if call.rights is None else call.rights.max_active,
            booked=self._comes_back(call),
            answer=self._estimate.answer(call.key, call.asked.max_tokens),
        )

    def _comes_back(self, call: Call) -> bool:
        """Whether it was refused before, and comes back at the time that it was told."""
        bookings = self._bookings
        return bookings is not None and bool(bookings) and bookings.redeem(self._clock(), _mark(call))

    def _name(self, model: str, life: Life, reply: Reply, who: Asker) -> None:
        """It came when nobody knew what is served here, and its model turns out to be."""
        life.model = who.model = model
        reply.gap = self._metrics.inter_token.at((model,)).observe
        if life.trace is not None:
            life.trace.named(model)

    async def _exchange(self, call: Call, reply: Reply, life: Life, slot: Slot, until: float) -> Ending:
        """Ask the life's engine; the slot goes back when its answer's body is closed, or here at the latest.

        One try, booked here with what became of it, so that an engine's outcomes add up to what it was asked.

        Raises:
            EngineBroke: and nothing of an answer was sent.
            PutBack: likewise; its slot was taken for somebody more urgent.
            Refusal: ``request_timeout``, likewise.
        """
        engine = life.engine
        outcome: str = LEFT
        per_event = 1
        watched = self._expiry.watch(reply, until)
        if call.plan.streamed:
            self._holds.watch(reply)
        self._running[reply] = engine
        if self._limits.preempt and call.gated:
            self._ranks[reply] = call.rank
        try:
            route = self._engines.route(engine)
            life.engine_request_id = self.new_id()
            trace = call.trace
            if life.trace is not None:
                trace = life.trace.asks(engine, life.engine_request_id, self._clock()) or trace
            if route.per_event > 1 and _can_have_larger_events(call):
                per_event = route.per_event
            reply.pieces = _pieces(call, per_event if route.obeys else 1)
            request = self._request(call, route, per_event, life.engine_request_id, trace)
            exchange = route.upstream.idle() or await route.upstream.connect()
            if call.gated:
                self._batches.observe(min(call.asked.sequences, BATCH_MOST))
            try:
                ending = await reply.carry(exchange, request, slot)
            except StaleConnection:
                ending = await reply.carry(await route.upstream.connect(), request, slot)
            outcome = ending.reason
            if outcome == OK:
                self._engines.served(engine)
            return ending
        except Unreachable as error:
            outcome = "unreachable"
            self._engines.suspect(engine)
            raise EngineBroke(f"it could not be reached: {error}") from None
        except PutBack:
            outcome = "put_back"
            raise
        except Refusal as refusal:
            outcome = refusal.reason
            raise
        except Exception:
            outcome = Reason.ENGINE_FAILED
            raise
        finally:
            slot.release()
            self._expiry.forget(watched)
            self._holds.forget(reply)
            del self._running[reply]
            if self._limits.preempt:
                self._ranks.pop(reply, None)
            self._relayed[engine] = self._relayed.get(engine, 0) + reply.events
            if call.plan.streamed:
                self._tokens_of_streams += reply.usage.completion_tokens if reply.usage_told else reply.tokens
                if _can_have_larger_events(call):
                    self._streams[engine] = _with_one(self.streams(engine), call, reply, per_event, outcome)
            self._metrics.engine_requests.add((engine, outcome))
            if life.trace is not None:
                first_at = reply.first_event_at if reply.events else None
                usage = (reply.usage.prompt_tokens, reply.usage.completion_tokens) if reply.usage_told else None
                life.trace.asked(self._clock(), outcome, first_at, usage)

    def _request(self, call: Call, route: Route, per_event: int, request_id: str, trace: TraceContext | None) -> bytes:
        body = call.body
        if call.can_ask_usage and call.plan.streamed and route.can_include_usage and not call.asked.include_usage:
            body = openai.ask_for_usage(body, call.asked)
        if per_event > 1:
            body = openai.ask_for_interval(body, per_event)
        return b"POST %b%b HTTP/1.1\r\n%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
            route.prefix,
            call.target,
            route.headers,
            call.content_type,
            len(body),
            request_id.encode(),
            trace.header_lines() if trace is not None else b"",
            body,
        )

    def _expire(self, reply: Reply) -> None:
        what = f"The request took longer than {self._limits.request_timeout_s:g} s."
        reply.expire(Refusal(Reason.REQUEST_TIMEOUT, what))

    def _until(self, call: Call, lease: Lease | None) -> float:
        """When the whole request's time is over, by the clock; time in which no engine was ready doesn't count."""
        waking_s = lease.waking_s if lease is not None else 0.0
        return call.arrived + waking_s + self._limits.request_timeout_s

    def _leave_line(self, life: Life, outcome: str, waking_s: float | None = None, *, aside_s: float = 0.0) -> None:
        since, life.queued_since = life.queued_since, None
        if since is not None:
            now = self._clock()
            self._metrics.queue_wait.at((outcome,)).observe(max(now - since - aside_s, 0.0))
            if life.trace is not None:
                life.trace.waited(since, now, outcome, waking_s, unready=self._engines.any_ready() is None)

    # Without slots.

    async def _aside(self, call: Call, reply: Reply, life: Life) -> Ending:
        """Small work that takes no slot (tokenize and its like), so many at a time."""
        engine = self._engines.any_ready()
        if engine is None:
            if self._engines.given_up():
                raise _given_up()
            raise Refusal(Reason.ENGINE_UNAVAILABLE, "No engine is ready.", retry_after_s=self._engines.eta_s())
        if self._side_calls >= self._limits.side_calls:
            raise Refusal(Reason.SLOTS_BUSY, "Too many requests of this kind at once.", retry_after_s=1.0)
        self._side_calls += 1
        life.engine = engine
        try:
            return await self._exchange(call, reply, life, _NoSlot(), self._until(call, None))
        except EngineBroke as broke:
            if broke.answer is not None:
                return reply.pass_on(broke.answer)
            raise Refusal(Reason.ENGINE_FAILED, f"The engine failed: {broke}.") from None
        finally:
            self._side_calls -= 1


def _mark(call: Call) -> int:
    """What a call is known by when it is tried again: whose it is, and all that it asks."""
    return hash((call.key, call.user, call.body))


def _can_have_larger_events(call: Call) -> bool:
    """Whether its engine may be asked for several tokens in an event.

    Not where it has to find calls of tools in what it makes: of vLLM's parsers some lose what comes together.
    """
    return call.plan.streamed and call.can_ask_usage and call.asked.interval is None and not call.asked.has_tools


def _pieces(call: Call, per_event: int) -> Pieces | None:
    """How its tokens will be spread over its events; None where each has one."""
    asked = call.asked
    per_event = asked.interval or per_event
    if per_event == 1:
        return None
    begins = 2 if asked.has_messages else 1  # a chat's with its role
    most = None if asked.max_tokens is None else asked.max_tokens * asked.sequences
    return Pieces(per_event, begins * asked.sequences, most)


def _with_one(streams: Streams, call: Call, reply: Reply, per_event: int, outcome: str) -> Streams:
    """What streams have told, and this one."""
    sequences, tokens, events = call.asked.sequences, reply.usage.completion_tokens, reply.events
    if per_event > 1 and outcome == Reason.INVALID_REQUEST:
        return streams.and_one_refused()
    if not reply.usage_told or not events:
        return streams
    if per_event > 1:
        return streams.and_one_asked(tokens, events, per_event=per_event, sequences=sequences)
    return streams.and_one(tokens, events, sequences=sequences)


def _given_up() -> Refusal:
    what = "The model is not ready: its engine failed again and again, and has to be mended."
    return Refusal(Reason.ENGINE_UNAVAILABLE, what, retry_after_s=GIVEN_UP_S)
