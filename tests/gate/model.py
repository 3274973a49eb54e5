"""A naive ledger, and a rig that holds the real one against it after every step.

The model keeps lists, adds up each waiter's time by hand and looks at everything every time. It leaves open
what the ledger may choose (the engine of a grant, the order of refusals at one moment) and checks that the
choice was allowed. Who is next it asks of a second order that is told the same; orders have tests of their own
(``test_orders``). Both the Hypothesis machine and the long drive use it. Times are multiples of 1/8 s, so
that sums are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal

import pytest

from headgate.errors import Reason
from headgate.gate import Ledger, LedgerError
from headgate.gate.capped import Capped
from headgate.gate.entries import NOBODY, Claim
from headgate.gate.ordering import Fifo
from headgate.gate.outcomes import Granted, Refused, Waiting
from headgate.gate.timely import Timely

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.gate.entries import Ticket
    from headgate.gate.ordering import Order
    from headgate.gate.outcomes import Decision


@dataclass(frozen=True)
class Rules:
    """The settings of one ledger."""

    mode: Literal["queue", "reject"]
    queue_max: int
    queue_max_bytes: int
    queue_timeout_s: float
    wake_timeout_s: float
    order: Callable[[], Order] = Fifo


@dataclass(eq=False)
class Request:
    """What the model knows about a request in the line, or holding slots (``engine``)."""

    weight: int
    size_bytes: int
    request_left_s: float
    front: bool
    queue_s: float
    wake_s: float
    aside_s: float = 0.0
    engine: str | None = None
    granted_at: float = 0.0
    kept: bool = False
    asked: int = field(init=False)
    ticket: Ticket = field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.weight  # which a grant may cut

    @property
    def own_left_s(self) -> float:
        """Of the time that its caller gives it, whether an engine is ready or not."""
        return self.ticket.claim.deadline_s - self.queue_s - self.wake_s

    def overdue(self, rules: Rules) -> Reason | None:
        queue_left_s = rules.queue_timeout_s - self.queue_s
        if self.own_left_s <= 0:
            return Reason.WAIT_TOO_LONG
        if min(queue_left_s, self.request_left_s) <= 0:
            return Reason.QUEUE_TIMEOUT if queue_left_s <= self.request_left_s else Reason.REQUEST_TIMEOUT
        return Reason.ENGINE_UNAVAILABLE if self.wake_s >= rules.wake_timeout_s else None


@dataclass
class Rig:
    """The ledger, its model, and what the caller of a ledger can do."""

    rules: Rules
    now: float = 1000.0
    slots: dict[str, int] = field(default_factory=dict)
    line: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    ended: list[Ticket] = field(default_factory=list)
    granted: int = 0
    refused: dict[Reason, int] = field(default_factory=dict)
    draining: bool = False
    evicted: bool = False
    paces_s: dict[str, float] = field(default_factory=dict)
    held_back: dict[str, list[float]] = field(default_factory=dict)
    next_at: dict[str, float] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = self.rules
        self.ledger = Ledger(
            queue_mode=rules.mode,
            queue_max=rules.queue_max,
            queue_max_bytes=rules.queue_max_bytes,
            queue_timeout_s=rules.queue_timeout_s,
            wake_timeout_s=rules.wake_timeout_s,
            order=rules.order(),
        )
        self.mirror = rules.order()
        self.stale = False

    # What a caller can do.

    def offer(self, weight: int, size_bytes: int, request_timeout_s: float, claim: Claim = NOBODY) -> None:
        self._catch_up()
        fits = self.ledger.fits(weight) and claim.most is None
        request = Request(weight, size_bytes, request_timeout_s, False, 0.0, 0.0)
        decision = self.ledger.offer(self.now, weight, size_bytes, request_timeout_s, claim=claim, who=request)
        assert isinstance(decision, Granted) or not fits
        self._offered(request, decision)
        self._catch_up()

    def come_back(self, nth: int, request_timeout_s: float) -> None:
        """A running one's engine died: it goes to the head of the line, then gives its slots back."""
        self._catch_up()
        if not self.running:
            return
        old = self.running[nth % len(self.running)]
        again = Request(old.weight, old.size_bytes, request_timeout_s, True, old.queue_s, old.wake_s, old.aside_s)
        decision = self.ledger.offer(
            self.now,
            old.weight,
            old.size_bytes,
            request_timeout_s,
            claim=old.ticket.claim,
            front=True,
            waited_s=old.queue_s,
            waking_s=old.wake_s,
            aside_s=old.aside_s,
            who=again,
        )
        self._offered(again, decision)
        self._catch_up()
        self._end(old, self.running)

    def put_back(self, nth: int, request_timeout_s: float) -> None:
        """A running one loses its slots to somebody more urgent, and has a place in the line, full or not."""
        old = self.running[nth % len(self.running)]
        self._end(old, self.running)
        self._catch_up()
        self._settle(old.ticket, 0.0)
        spent_s = old.queue_s, old.wake_s, old.aside_s
        again = Request(old.weight, old.size_bytes, request_timeout_s, False, *spent_s, kept=True)
        decision = self.ledger.offer(
            self.now,
            old.weight,
            old.size_bytes,
            request_timeout_s,
            claim=old.ticket.claim,
            kept=True,
            waited_s=old.queue_s,
            waking_s=old.wake_s,
            aside_s=old.aside_s,
            who=again,
        )
        self._offered(again, decision)
        self._catch_up()

    def leave(self, nth: int) -> None:
        requests = self.line + self.running
        request = requests[nth % len(requests)]
        self._end(request, self.line if request in self.line else self.running)

    def leave_again(self, nth: int) -> None:
        with pytest.raises(LedgerError):
            self.ledger.leave(self.now, self.ended[nth % len(self.ended)])

    def resize(self, engine: str, slots: int) -> None:
        self.slots[engine] = slots
        self.most[engine] = max(slots, self.most.get(engine, 0))
        if not slots:
            self._hurry(engine)
        self._verdicts(self.ledger.resize(self.now, engine, slots))

    def pace(self, engine: str, pace_s: float) -> None:
        """An engine's slots come free one after another."""
        if self.slots.get(engine):
            if pace_s:
                self.paces_s[engine] = pace_s
            else:
                self._hurry(engine)
        self._verdicts(self.ledger.pace(self.now, engine, pace_s))

    def _hurry(self, engine: str) -> None:
        for kept in (self.paces_s, self.held_back, self.next_at):
            kept.pop(engine, None)

    def advance(self, seconds: float, *, tick: bool) -> None:
        self.now += seconds
        for request in self.line:
            if self._ready():
                request.queue_s += seconds
                request.aside_s += seconds * self.ledger.stands_aside(request.ticket)
                request.request_left_s -= seconds
            else:
                request.wake_s += seconds
        self.stale = self.stale or bool(seconds)
        if tick:
            self._verdicts(self.ledger.tick(self.now))

    def settle(self, nth: int, tokens: float) -> None:
        """What a request took is known: while it holds its slots, or when it has ended."""
        served = [*[each.ticket for each in self.running], *self.ended]
        self._settle(served[nth % len(served)], tokens)

    def _settle(self, ticket: Ticket, tokens: float) -> None:
        charged = ticket.tokens
        self.ledger.settle(ticket, tokens)
        ticket.tokens = charged
        self.mirror.settle(ticket, tokens)
        self._catch_up()

    def _catch_up(self) -> None:
        """As the gate does before an offer and after it: time and newcomers can change who is next."""
        if (self.rules.order is not Fifo or self.paces_s) and self.line:
            self._verdicts(self.ledger.tick(self.now))

    def close(self, limit_s: float) -> None:
        self.draining = True
        self._verdicts(self.ledger.close(self.now, limit_s))

    def evict(self) -> None:
        self.draining = self.evicted = True
        self._verdicts(self.ledger.evict(self.now))
        assert not self.line

    # What must be so.

    def check(self) -> None:
        """What holds after every step, whatever it was."""
        held = self._held()
        at_work = [engine for engine, slots in self.slots.items() if slots or held.get(engine)]
        seen = self.ledger.statistics(self.now)
        assert seen.late == seen_late(self.mirror, self._queue_now())
        head = None if self.stale else self._head()  # to ask is to look at the time, which the ledger hasn't done
        assert head is None or not self._engines_with_room(head), "room, and the head waits"
        assert seen.slots == sum(self.slots.values())
        assert seen.active == sum(held.values())
        assert seen.slots_by_engine == {engine: self.slots[engine] for engine in at_work}
        assert seen.active_by_engine == {engine: held.get(engine, 0) for engine in at_work}
        assert seen.waiting == len(self.line)
        assert seen.waiting_bytes == sum(each.size_bytes for each in self.line)
        assert seen.oldest_wait_s == max((each.queue_s + each.wake_s for each in self.line), default=0.0)
        assert seen.granted_total == self.granted
        assert seen.refused_total == sum(self.refused.values())
        assert seen.draining == self.draining
        assert self.ledger.idle == (not self.line and not self.running)
        assert self.stale or self.ledger.next_deadline(self.now) == self._next_deadline()
        assert seen.held_back <= sum(slots // 8 for slots in self.most.values())
        self._check_what_is_shown()

    def _check_what_is_shown(self) -> None:
        assert self.ledger.held(self.now, 1000) == [
            (each.ticket.number, each, each.engine, each.weight, self.now - each.granted_at) for each in self.running
        ]
        assert [each.who for each in self.ledger.held(self.now, 2)] == self.running[-2:]
        line, newcomer_s = self.ledger.outlook(self.now, 1000)
        waited = {each.ticket.number: (each, each.queue_s + each.wake_s) for each in self.line}
        assert {each.number: (each.who, each.waited_s) for each in line} == waited
        assert self.rules.order is not Fifo or [each.who for each in line] == sorted(self.line, key=in_turn)
        first_two, _ = self.ledger.outlook(self.now, 2)
        assert first_two == line[:2]
        etas = [each.eta_s for each in line] + ([] if self.draining else [newcomer_s])
        known = [each for each in etas if each is not None]
        aside = sum(self.ledger.stands_aside(each.ticket) for each in self.line)
        chance = sum(is_chance(self.mirror, each.ticket) for each in self.line)
        if not self.stale:
            assert len(known) == (len(etas) - aside - chance if self._ready() else 0), "with an engine there is one"
        assert seen_aside(self.mirror) == aside
        self._check_caps()
        assert known == sorted(known), "nobody overtakes"
        assert all(each >= 0 for each in known)
        assert all(each.who is None for each in self.ended), "a caller is kept beyond its end"

    def _check_cap_of(self, request: Request) -> None:
        """Its key holds no more than it may, but for one heavy request by itself, and those back from a dead engine."""
        key = request.ticket.claim.key
        own = [each for each in self.running if each.ticket.claim.key == key]
        caps = [each.ticket.claim.most for each in own]
        if isinstance(self.mirror, Capped) and None not in caps and not any(each.front for each in own):
            most = max(cap for cap in caps if cap is not None)
            assert len(own) == 1 or sum(each.weight for each in own) <= most, "a key holds more than it may"

    def _check_caps(self) -> None:
        """Nobody stands aside for nobody."""
        for each in self.line:
            most = each.ticket.claim.most
            if most is None or not self.ledger.stands_aside(each.ticket):
                continue
            own = [other for other in self.line + self.running if other.ticket.claim.key == each.ticket.claim.key]
            assert any(other is not each and not self.ledger.stands_aside(other.ticket) for other in own)
            caps = {other.ticket.claim.most for other in own}
            if len(caps) == 1 and not any(other.front for other in own):
                aside = [other for other in own if self.ledger.stands_aside(other.ticket)]
                in_turn = sum(other.asked for other in own if other not in aside)
                assert any(in_turn + other.asked > most for other in aside), "its key has room for each of them"

    def _offered(self, request: Request, decision: Decision) -> None:
        self._tell_time()
        ticket = request.ticket = decision.ticket
        alone = not self.line
        passes = request.front or request.kept
        closed = self.draining and not (passes and self._ready() and not self.evicted)
        direct = False
        if not closed:
            granted_weight, ticket.weight = ticket.weight, request.weight  # as it was when the ledger's order was told
            capped = self.mirror if isinstance(self.mirror, Capped) else None
            direct = alone and bool(self._engines_with_room(request))
            direct = direct and (request.front or capped is None or capped.admits(ticket))
            if not direct:
                self.mirror.push(ticket, front=request.front)
            elif not request.front:
                self.mirror.serve(ticket)
            elif capped is not None:
                capped.begin(ticket)
            ticket.weight = granted_weight
        first = direct or self.mirror.head(self._queue_now()) is ticket
        if closed:
            self._was_refused(decision, Reason.DRAINING)
        elif first and self._engines_with_room(request):
            assert isinstance(decision, Granted), f"{decision} though there is room"
            if not direct:
                self.mirror.take(ticket)
            self._grant(request, decision)
        elif passes or (reason := self._reason_against(request)) is None:
            assert isinstance(decision, Waiting), f"{decision} instead of a place in the line"
            self._displaced(decision, request)
            self.line.insert(sum(each.front for each in self.line) if request.front else len(self.line), request)
        else:
            self.mirror.remove(ticket)
            self._was_refused(decision, reason)

    def _was_refused(self, decision: Decision, reason: Reason) -> None:
        assert isinstance(decision, Refused), f"{decision} instead of {reason}"
        assert decision.reason is reason
        self._refused(decision)

    def _displaced(self, decision: Waiting, request: Request) -> None:
        """Somebody left a full line for the newcomer, and it was the one that the order names."""
        if request.front or request.kept or not self._is_full(request):
            assert decision.displaced is None
            return
        refused = decision.displaced
        assert refused is not None
        assert refused.reason is Reason.WAIT_TOO_LONG
        assert refused.ticket is self.mirror.last()
        self.mirror.remove(refused.ticket)
        self.line.remove(next(each for each in self.line if each.ticket is refused.ticket))
        self._refused(refused)

    def _is_full(self, request: Request) -> bool:
        bytes_after = sum(each.size_bytes for each in self.line) + request.size_bytes
        return len(self.line) >= self.rules.queue_max or bytes_after > self.rules.queue_max_bytes

    def _reason_against(self, request: Request) -> Reason | None:
        """Why a newcomer that stands in the mirror can't stay."""
        if self.rules.mode == "reject" and self._ready():
            return Reason.SLOTS_BUSY
        if self._is_full(request):
            bytes_over = sum(each.size_bytes for each in self.line) + request.size_bytes - self.rules.queue_max_bytes
            loser = self.mirror.last()
            if loser in (None, request.ticket) or not self.rules.queue_max or loser.size_bytes < bytes_over:
                return Reason.QUEUE_FULL
            return None
        aside = isinstance(self.mirror, Capped) and self.mirror.stands_aside(request.ticket)
        if self._ready() and self.ledger._holds.is_sure and not aside and not self._hopeful(request.ticket):
            return Reason.WAIT_TOO_LONG
        return None

    def _hopeful(self, ticket: Ticket) -> bool:
        """Whether even a hopeful forecast says that the promise can be kept. The forecast itself is tested alone."""
        promise_s = min(self.rules.queue_timeout_s, ticket.claim.deadline_s)
        slots, before = self.ledger._slots, self.mirror.before(ticket)
        ahead, length = float(before), 1.0
        others = [each.ticket for each in self.line if not self.ledger.stands_aside(each.ticket)]
        if before == len(others) > 0:  # all who wait for slots go before it, so it is known who they are
            ahead = sum(min(each.weight, slots.largest) for each in others)
            length = self.ledger._holds.length(sum(each.claim.answer for each in others) / len(others))
        weight = min(ticket.weight, slots.largest)
        told = self.ledger._forecast.newcomer_s(self.now, ahead, length, weight, slots.last_total, slots.holders)
        return told[1] <= promise_s

    def _queue_now(self) -> float:
        return self.ledger._deadlines.clocks(self.now)[0]

    def _tell_time(self) -> None:
        if isinstance(self.mirror, Capped):
            self.mirror.queue_s = self._queue_now()

    def _head(self) -> Request | None:
        ticket = self.mirror.head(self._queue_now())
        return next((each for each in self.line if each.ticket is ticket), None)

    def _verdicts(self, verdicts: Sequence[Granted | Refused]) -> None:
        """Check a call's verdicts: every refusal was due, every grant went to the head, none was left out."""
        self._tell_time()
        taken = {verdict.ticket: verdict.ticket.weight for verdict in verdicts}
        for each in self.line:  # grants have cut weights, by which orders go
            each.ticket.weight = each.weight
        for verdict in verdicts:
            request = next(each for each in self.line if each.ticket is verdict.ticket)
            if isinstance(verdict, Refused):
                over = self.evicted or (self.draining and not self._ready())
                assert verdict.reason is (Reason.DRAINING if over else request.overdue(self.rules))
                self.line.remove(request)
                self.mirror.remove(request.ticket)
                assert request.ticket.aside_s == request.aside_s
                self._refused(verdict)
            else:
                assert request is self._head(), "somebody overtook the head of the line"
                assert request.overdue(self.rules) is None, "served after its time"
                self.line.remove(request)
                self.mirror.take(request.ticket)
                request.ticket.weight = taken[request.ticket]
                self._grant(request, verdict)
        assert not any(each.overdue(self.rules) for each in self.line), "waits though its time is over"
        self.mirror.head(self._queue_now())  # the ledger looked at the time as well, and parked the late
        self.stale = False

    def _grant(self, request: Request, granted: Granted) -> None:
        assert granted.engine in self._engines_with_room(request), "more granted than there are slots"
        assert (granted.waited_s, granted.waking_s) == (request.queue_s, request.wake_s)
        request.engine = granted.engine
        request.weight = self._weight(request)
        request.granted_at = self.now
        self.running.append(request)
        self.granted += 1
        assert request.ticket.aside_s == request.aside_s
        self._check_cap_of(request)

    def _refused(self, refused: Refused) -> None:
        assert 0 < refused.retry_after_s < math.inf
        self.refused[refused.reason] = self.refused.get(refused.reason, 0) + 1
        self.ended.append(refused.ticket)

    def _end(self, request: Request, where: list[Request]) -> None:
        self._tell_time()
        where.remove(request)
        if where is self.line:
            self.mirror.remove(request.ticket)
        else:
            self._hold_back(request)
            if isinstance(self.mirror, Capped):
                self.mirror.end(request.ticket)
        self.ended.append(request.ticket)
        self._verdicts(self.ledger.leave(self.now, request.ticket))

    def _hold_back(self, request: Request) -> None:
        """Of the slots that came free one after another, an eighth of the engine's at most."""
        engine = request.engine
        if engine not in self.paces_s:
            return
        held, slots = self._held().get(engine, 0), self.slots[engine]
        waiting = self.held_back.setdefault(engine, [])
        waiting[:] = [each for each in waiting if each > self.now]
        room = slots - held - len(waiting)  # the rest is beyond what the engine has
        for _ in range(min(request.weight, room)):
            next_at = self.next_at.get(engine, 0.0)
            if next_at <= self.now:
                self.next_at[engine] = self.now + self.paces_s[engine]
                continue
            if 8 * (len(waiting) + 1) <= slots:
                waiting.append(next_at)
                self.next_at[engine] = next_at + self.paces_s[engine]

    def _ready(self) -> bool:
        return any(self.slots.values())

    def _weight(self, request: Request) -> int:
        return min(request.weight, max(self.slots.values(), default=0))

    def _held(self) -> dict[str, int]:
        held: dict[str, int] = {}
        for request in self.running:
            assert request.engine is not None
            held[request.engine] = held.get(request.engine, 0) + request.weight
        return held

    def _engines_with_room(self, request: Request) -> set[str]:
        held = self._held()
        weight = self._weight(request)
        return {
            name
            for name, slots in self.slots.items()
            if slots and slots - held.get(name, 0) - len(self._still_held_back(name)) >= weight
        }

    def _still_held_back(self, engine: str) -> list[float]:
        return [each for each in self.held_back.get(engine, []) if each > self.now]

    def _next_deadline(self) -> float | None:
        if self._ready():
            left = [self.rules.queue_timeout_s - each.queue_s for each in self.line]
            left += [each.request_left_s for each in self.line]
        else:
            left = [self.rules.wake_timeout_s - each.wake_s for each in self.line]
        left += [each.own_left_s for each in self.line]
        soon = [each - self.now for name in self.held_back for each in self._still_held_back(name)]
        beneath = self.mirror.beneath if isinstance(self.mirror, Capped) else self.mirror
        if isinstance(beneath, Timely) and self._engines_with_room(Request(1, 0, inf, False, 0.0, 0.0)):
            soon.append(beneath.next_late_s - self._queue_now())  # then what is free may be for another
        return self.now + min(left + soon) if left else None


def seen_aside(order: Order) -> int:
    """How many stand aside."""
    return order.aside if isinstance(order, Capped) else 0


def seen_late(order: Order, queue_s: float) -> int:
    """How many have waited too long to be served in time. They are parked, as whoever asks the ledger parks them."""
    beneath = order.beneath if isinstance(order, Capped) else order
    if not isinstance(beneath, Timely):
        return 0
    beneath.park(queue_s)
    return beneath.parked


def is_chance(order: Order, ticket: Ticket) -> bool:
    """Whether nobody knows when one that waits in turn will be served."""
    if isinstance(order, Capped):
        return not order.stands_aside(ticket) and is_chance(order.beneath, ticket)
    return isinstance(order, Timely) and order.is_chance(ticket)


def in_turn(request: Request) -> int:
    """Of a plain line: back from a dead engine first, then those who come back as they were told, then the new."""
    return 0 if request.front else 1 if request.ticket.claim.booked else 2
