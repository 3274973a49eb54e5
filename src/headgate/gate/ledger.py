"""Slots and the line: who may run now, who waits, who is refused.

A state machine without I/O: time is an argument, decisions are returned as data, ``gate`` carries them out.
It is the one owner of this state, and the place that must be right, so it is checked alone, against a naive
model. Who is next is asked of an ``Order``, where there is room of ``Slots``, when to come back of
``Forecast``.

What holds after every call:

* no grant makes the weight held on an engine exceed its slots;
* no engine has room for the head of the line, and nobody overtakes it: a heavy head reserves what comes free.
  Who the head is may change with time, or as another leaves (``timely``), which the next ``tick`` sees. A slot
  that is held back for the pace (``slots``) is no room until its time has come, which a ``tick`` sees too;
* every ticket ends exactly once: it leaves, or is refused;
* after ``tick(now)`` nobody has waited for longer than ``queue_timeout_s`` on the queue clock, which runs
  while an engine is ready, nor than ``wake_timeout_s`` on the wake clock, which runs while none is;
* nobody is refused before that, but for a deadline of the caller's own, for a promise that even a hopeful forecast
  says can't be kept, or as the most hopeless in a full line.

While no engine is ready both modes keep a line: that wait is for waking, not for contention. In reject mode
those who don't fit when an engine wakes keep their places, as in queue mode; only newcomers are refused from
then on.
"""

from __future__ import annotations

from itertools import islice
from math import ceil, inf
from typing import TYPE_CHECKING, Literal

from headgate.errors import Reason
from headgate.gate.capped import Capped
from headgate.gate.deadlines import Deadlines
from headgate.gate.entries import NOBODY, Claim, Holder, Statistics, Ticket, Waiter, Weights
from headgate.gate.forecast import Forecast, View
from headgate.gate.hold_times import HoldTimes
from headgate.gate.ordering import Fifo
from headgate.gate.outcomes import Decision, Granted, Refused, Verdict, Waiting
from headgate.gate.slots import Bin, Ended, Slots, emptiest
from headgate.gate.timely import Timely

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.gate.ordering import Order


class LedgerError(Exception):
    """A ticket that has ended already was told to leave: the caller's books are wrong."""


class Ledger:
    """The books of slots and line. Every ``now`` is real time in seconds and never goes back.

    Args:
        queue_mode: ``queue`` waits for a slot, ``reject`` refuses when none is free.
        queue_max: tickets that may wait.
        queue_max_bytes: bytes that those who wait may keep in memory.
        queue_timeout_s: the longest wait while an engine is ready.
        wake_timeout_s: the longest wait for an engine to be ready.
        choose: picks one of several engines that have room for a weight.
        order: who is next; first come first served where none is given.
    """

    def __init__(
        self,
        *,
        queue_mode: Literal["queue", "reject"] = "queue",
        queue_max: int = 64,
        queue_max_bytes: int = 256 * 2**20,
        queue_timeout_s: float = 30.0,
        wake_timeout_s: float = 300.0,
        choose: Callable[[Sequence[Bin], int], Bin] = emptiest,
        order: Order | None = None,
    ) -> None:
        self.queue_max = queue_max
        self.queue_timeout_s = queue_timeout_s
        self.wake_timeout_s = wake_timeout_s
        self._reject = queue_mode == "reject"
        self._queue_max_bytes = queue_max_bytes
        self._slots = Slots(choose)
        self._order: Order = Fifo() if order is None else order
        self._capped = order if isinstance(order, Capped) else None
        beneath = self._capped.beneath if self._capped is not None else order
        self._timely = beneath if isinstance(beneath, Timely) else None
        self._deadlines = Deadlines()
        self._holds = HoldTimes()
        self._forecast = Forecast(self._holds)
        self._weights = Weights()
        self._waiting_bytes = 0
        self._waiting_answers = 0.0
        self._wake_at: float | None = None
        self._drain_until: float | None = None
        self._evicted = False
        self._offered = self._granted = self._refused = 0

    @property
    def slots(self) -> int:
        """Slots of all ready engines together."""
        return self._slots.total

    @property
    def active(self) -> int:
        """Slots that are held."""
        return self._slots.active

    def held_on(self, engine: str) -> int:
        """Slots that are held on one engine."""
        return self._slots.held(engine)

    def grants_what_is_given_back(self, engine: str) -> bool:
        """Whether a slot that comes free on one engine can be granted: it is ready, and runs no more than it may."""
        return self._slots.is_within(engine)

    def held_back_on(self, engine: str) -> int:
        """Slots of one engine that came free and are held back for its pace."""
        return self._slots.held_back(engine)

    def ended_on(self, engine: str) -> Ended:
        """How long those held slots on one engine who have ended."""
        return self._slots.ended(engine)

    @property
    def waiting(self) -> int:
        """Tickets in the line."""
        return len(self._order)

    @property
    def wanting(self) -> int:
        """Those of them that wait for slots, and not for others of their key."""
        return len(self._order) - (self._capped.aside if self._capped is not None else 0)

    @property
    def has_line(self) -> bool:
        """Whether anybody waits; asked at every request."""
        return self._weights.all > 0

    @property
    def long_hold_s(self) -> float:
        """How long a long one holds them; 0 before anything is known."""
        return self._holds.long_s

    @property
    def idle(self) -> bool:
        """Nothing runs and nobody waits."""
        return not self._slots.holders and not self._weights.all

    def fits(self, weight: int) -> bool:
        """Whether there is room for this weight and nobody waits for it: an offer would be granted at once.

        A key's own cap is another matter; so is a slot that was held back until a moment ago.
        """
        if self._drain_until is not None or (self._weights.all and self._in_turn):
            return False
        return self._slots.has_room(weight)

    def stands_aside(self, ticket: Ticket) -> bool:
        """Whether it waits for others of its key, and not for slots."""
        return self._capped is not None and self._capped.stands_aside(ticket)

    def lacks_own(self, ticket: Ticket) -> bool:
        """Whether it is its key that has no slot for one that doesn't wait: the gate has."""
        return self._capped is not None and self._slots.has_room(ticket.weight) and not self._capped.admits(ticket)

    @property
    def _in_turn(self) -> int:
        """What those weigh who wait for slots."""
        return self._weights.all if self._capped is None else self._weights.all - self._capped.aside_weights.all

    def offer(
        self,
        now: float,
        weight: int = 1,
        size_bytes: int = 0,
        request_timeout_s: float = inf,
        *,
        claim: Claim = NOBODY,
        front: bool = False,
        kept: bool = False,
        waited_s: float = 0.0,
        waking_s: float = 0.0,
        aside_s: float = 0.0,
        who: object = None,
    ) -> Decision:
        """A request comes; the decision is about it, and in a full line about the one whose place it takes.

        Where others wait, a ``tick`` must come before it, since time alone can change who is next, and after it, since
        a newcomer's turn, or one that gave up its place, can change it too.

        Args:
            weight: slots that it needs; whenever it is looked at, at most the largest engine's.
            size_bytes: what it keeps in memory while it waits.
            request_timeout_s: what is left of its whole time, waking excluded.
            claim: what its place in the line depends on.
            front: its engine died before the first byte. It goes to the head of the line, full or not, and
                even in a drain, where an engine is ready.
            kept: its slot was taken from it for somebody more urgent, and its charge was settled. It has a place in
                the line, full or not, and even in a drain.
            waited_s, waking_s: what it had spent in the line before that.
            aside_s: of the former, for others of its key.
            who: handed out with what ``held`` and ``line`` show, until the ticket has ended.

        Raises:
            ValueError: a weight below 1 would unbalance the books.
        """
        if weight < 1:
            raise ValueError(f"a request weighs 1 slot at least, not {weight}")
        self._offered += 1
        queue_s, wake_s = self._deadlines.clocks(now)
        ticket = Ticket(
            self._offered,
            weight,
            size_bytes,
            queue_s - waited_s,
            wake_s - waking_s,
            claim=claim,
            tokens=claim.tokens,
            who=who,
            aside_s=aside_s,
        )
        if self._drain_until is not None and not ((front or kept) and self._slots.ready and not self._evicted):
            return self._refuse(now, ticket, Reason.DRAINING)
        self._slots.let_go(now)
        if self._capped is not None:
            self._capped.queue_s = queue_s
        if not self._weights.all and (front or self._capped is None or self._capped.admits(ticket)):
            where = self._slots.room(weight)
            if where is not None:
                if not front:
                    self._order.serve(ticket)
                elif self._capped is not None:
                    self._capped.begin(ticket)
                return self._grant(now, ticket, where, queue_s, wake_s)
        if self._reject and not (front or kept) and self._slots.ready and not self._slots.has_room(weight):
            return self._refuse(now, ticket, Reason.SLOTS_BUSY)  # as below, without the way into the order and back
        self._order.push(ticket, front=front)
        granted = self._grant_head(now)
        if granted is not None:
            return granted
        displaced: Refused | None = None
        if not (front or kept):
            reason, loser = self._no_place(now, ticket)
            if reason is not None:
                self._order.remove(ticket)
                by_own = reason is Reason.WAIT_TOO_LONG and claim.deadline_s < self.queue_timeout_s
                return self._refuse(now, ticket, reason, by_own=by_own)
            if loser is not None:
                displaced = self._expel(now, loser, Reason.WAIT_TOO_LONG)
        self._wait(ticket, queue_s + request_timeout_s)
        return Waiting(ticket, displaced)

    def turn_away(self, now: float, reason: Reason, weight: int = 1) -> Refused:
        """Refuse a request for a reason that isn't the ledger's own, with an honest time to come back."""
        self._offered += 1
        queue_s, wake_s = self._deadlines.clocks(now)
        return self._refuse(now, Ticket(self._offered, max(weight, 1), 0, queue_s, wake_s), reason)

    def leave(self, now: float, ticket: Ticket) -> list[Verdict]:
        """A ticket ends: it gives its slots back, or leaves the line.

        Raises:
            LedgerError: it has ended before.
        """
        self._tell_time(now)
        held_in = ticket.held_in
        if held_in is not None:
            self._holds.learn(self._slots.give_back(now, ticket, held_in), ticket.weight, ticket.claim.answer)
            if self._capped is not None:
                self._capped.end(ticket)
        elif ticket.waiting:
            if not self.stands_aside(ticket):  # it was ahead of nobody
                self._forecast.learn_patience(stayed=False)
            self._order.remove(ticket)
            self._forget(ticket)
        else:
            raise LedgerError(f"ticket {ticket.number} has ended already")
        ticket.who = None
        return self.tick(now) if self._weights.all else []

    def settle(self, ticket: Ticket, tokens: float) -> None:
        """A request that was served took so many tokens; it may have left already. A ``tick`` must follow."""
        self._order.settle(ticket, tokens)

    def first_token(self, now: float, ticket: Ticket) -> None:
        """The engine has answered a ticket that holds slots for the first time."""
        first_s = now - ticket.granted_at
        if ticket.held_in is not None:
            waited_s = self._deadlines.clocks(now)[0] - ticket.queued_from - ticket.aside_s
            ticket.held_in.in_time += waited_s <= ticket.claim.within_s
            ticket.held_in.firsts += 1
            ticket.held_in.firsts_s += first_s
            ticket.held_in.firsts_s2 += first_s * first_s
        if self._timely is not None:
            self._timely.lead_s = self._holds.learn_first(now, first_s)

    def resize(self, now: float, engine: str, slots: int) -> list[Verdict]:
        """An engine has ``slots`` from now on; 0: it is not ready. What runs there is left alone."""
        was_awake = bool(self._slots.ready)
        self._slots.resize(engine, slots)
        is_awake = bool(self._slots.ready)
        if is_awake != was_awake:
            self._deadlines.turn(now, awake=is_awake)
            self._wake_at = None if is_awake else self._wake_at
        return self.tick(now)

    def pace(self, now: float, engine: str, pace_s: float) -> list[Verdict]:
        """From now on an engine's slots come free no sooner after one another than this; 0: as they come."""
        self._slots.pace(engine, pace_s)
        return self.tick(now)

    def tempo(self, token_s: float) -> None:
        """The tokens of a sequence come so far apart now, on all engines in the mean; seconds, more than 0."""
        self._holds.tempo(token_s)

    def expect(self, now: float, wake_s: float | None) -> None:
        """An engine should be ready in ``wake_s`` seconds; None: nobody knows."""
        self._wake_at = None if wake_s is None else now + wake_s

    def tick(self, now: float) -> list[Verdict]:
        """Refuse those whose time is over, then grant what fits."""
        verdicts: list[Verdict] = []
        if self._drain_until is not None and (self._evicted or not self._slots.ready):
            verdicts += [self._expel(now, ticket, Reason.DRAINING) for ticket in list(self._order)]
        while (due := self._deadlines.due(now)) is not None:
            ticket, reason = due
            verdicts.append(self._expel(now, ticket, reason, by_own=reason is Reason.WAIT_TOO_LONG))
        self._slots.let_go(now)
        while (granted := self._grant_head(now)) is not None:
            verdicts.append(granted)
        return verdicts

    def next_deadline(self, now: float) -> float | None:
        """The real time at which ``tick`` must be called at the latest; None when nobody waits."""
        deadline = self._deadlines.next(now)
        if deadline is None:
            return None
        deadline = min(deadline, self._slots.next_at)
        if self._timely is not None and self._slots.has_room(1):
            # Slots are free, but too few for who is next: once that is too late, they are for somebody behind it.
            deadline = min(deadline, now + self._timely.next_late_s - self._deadlines.clocks(now)[0])
        return deadline

    def close(self, now: float, limit_s: float) -> list[Verdict]:
        """Drain: newcomers are refused, the line is served for as long as an engine is ready.

        ``limit_s`` is how long the drain may last, which the refused are told; ``evict`` ends it.
        """
        self._drain_until = now + limit_s
        return self.tick(now)

    def evict(self, now: float) -> list[Verdict]:
        """The drain's limit is reached: refuse all who wait, for good."""
        self._drain_until = now
        self._evicted = True
        return self.tick(now)

    def statistics(self, now: float) -> Statistics:
        """The picture at ``now``; O(n) in the length of the line."""
        bins = self._slots.bins
        if self._timely is not None:  # who is late by now is parked where it matters; here it is counted, too
            self._timely.park(self._deadlines.clocks(now)[0])
        # Not asked of the order: some of them work hard to be walked along.
        oldest = min((ticket.queued_from + ticket.woken_from for ticket in self._deadlines.tickets()), default=now)
        return Statistics(
            slots=self._slots.total,
            active=self._slots.active,
            slots_by_engine={each.engine: each.slots for each in bins},
            active_by_engine={each.engine: each.active for each in bins},
            held_back=sum(len(each.held_back) for each in bins),
            waiting=len(self._order),
            waiting_bytes=self._waiting_bytes,
            oldest_wait_s=now - oldest,  # the two clocks together are real time
            granted_total=self._granted,
            refused_total=self._refused,
            draining=self._drain_until is not None,
            aside=self._capped.aside if self._capped is not None else 0,
            late=self._timely.parked if self._timely is not None else 0,
        )

    def held(self, now: float, most: int) -> list[Holder]:
        """Who holds slots, the oldest first; where there are more than ``most``, the newest of them."""
        newest = list(islice(reversed(self._slots.holders), most))
        return [
            Holder(ticket.number, ticket.who, ticket.held_in.engine, ticket.weight, now - ticket.granted_at)
            for ticket in reversed(newest)
            if ticket.held_in is not None
        ]

    def outlook(self, now: float, most: int) -> tuple[list[Waiter], float | None]:
        """The first ``most`` of those who wait, in the order in which they will be served, and seconds that a
        newcomer of weight 1 would wait for its slot; None where nobody can tell: who stands aside waits for its own,
        and of a crowd's it is chance who is served.

        Those behind the first ``most`` are taken to come at the mean rate.
        """
        largest = self._slots.largest
        in_turn = self._capped.beneath if self._capped is not None else self._order
        first = list(islice(in_turn, most))
        weights = [min(ticket.weight, largest or ticket.weight) for ticket in first]
        lengths = [self._holds.length(ticket.claim.answer) for ticket in first]
        waits_s: list[float | None] = [None] * (len(first) + 1)
        if self._slots.ready or self._wake_at is not None:
            view = self._view(now, weight=1, size_bytes=0, head=None)
            told_s = self._forecast.waits_s(now, view, [*zip(weights, lengths, strict=True), (1, 1.0)])
            behind = max(view.line_weight - sum(weights), 0)
            if behind:
                told_s[-1] += behind * self._holds.slot_s(now, max(view.slots, 1), view.holders)
            waits_s[:] = told_s
            if self._timely is not None:
                waits_s[:-1] = [
                    None if self._timely.is_chance(ticket) else wait_s
                    for ticket, wait_s in zip(first, told_s, strict=False)
                ]
        line = [
            # The two clocks together are real time.
            Waiter(ticket.number, ticket.who, weight, now - ticket.queued_from - ticket.woken_from, eta_s)
            for ticket, weight, eta_s in zip(first, weights, waits_s, strict=False)
        ]
        line += [
            Waiter(ticket.number, ticket.who, ticket.weight, now - ticket.queued_from - ticket.woken_from, None)
            for ticket in islice(self._order, len(in_turn), most)
        ]
        draining = self._drain_until is not None
        return line, None if draining else 0.0 if self.fits(1) else waits_s[-1]

    def __repr__(self) -> str:
        closed = self._drain_until is not None
        state = "draining" if closed else "ready" if self._slots.ready else "no engine ready"
        return (
            f"<Ledger {state}: {self._slots.active}/{self._slots.total} slots held, "
            f"{len(self._order)}/{self.queue_max} waiting ({self._waiting_bytes} bytes)>"
        )

    def _grant_head(self, now: float) -> Granted | None:
        if not self._slots.has_room(1):  # who is next is not asked: most who come to a full gate would ask in vain
            return None
        queue_s, wake_s = self._deadlines.clocks(now)
        ticket = self._order.head(queue_s)
        if ticket is None:
            return None
        where = self._slots.room(ticket.weight)
        if where is None:
            return None
        self._order.take(ticket)
        if ticket.waiting:
            self._forget(ticket)
            self._forecast.learn_patience(stayed=True)
        return self._grant(now, ticket, where, queue_s, wake_s)

    def _grant(self, now: float, ticket: Ticket, where: Bin, queue_s: float, wake_s: float) -> Granted:
        self._slots.take(now, ticket, where)
        self._granted += 1
        return Granted(ticket, where.engine, queue_s - ticket.queued_from, wake_s - ticket.woken_from)

    def _no_place(self, now: float, ticket: Ticket) -> tuple[Reason | None, Ticket | None]:
        """Why a newcomer, in the order already, can't stay; or else who has to give it a place, if anybody."""
        if self._reject and self._slots.ready:
            return Reason.SLOTS_BUSY, None
        if self._timely is not None:
            self._timely.park(self._deadlines.clocks(now)[0])
        bytes_over = self._waiting_bytes + ticket.size_bytes - self._queue_max_bytes
        if len(self._order) > self.queue_max or bytes_over > 0:
            loser = self._order.last()
            if loser is None or loser is ticket or loser.size_bytes < bytes_over or not self.queue_max:
                return Reason.QUEUE_FULL, None
            return None, loser
        if self._slots.ready and self._holds.is_sure and not self.stands_aside(ticket):
            ticket.predicted_s, least_s = self._wait_s(now, ticket)
            if least_s > min(self.queue_timeout_s, ticket.claim.deadline_s):
                return Reason.WAIT_TOO_LONG, None
        return None, None

    def _wait_s(self, now: float, ticket: Ticket) -> tuple[float, float]:
        """How long a newcomer will wait, which is in the order already, and how long at least."""
        slots, before, others = self._slots, self._order.before(ticket), self.wanting - 1
        ahead, length = float(before), 1.0
        if before == others > 0:  # of only some of those who wait nobody knows how heavy and how long they are
            ahead = float(self._line_weight())
            aside = self._capped.aside_answers if self._capped is not None else 0.0
            length = self._holds.length((self._waiting_answers - aside) / others)
        weight = min(ticket.weight, slots.largest)
        return self._forecast.newcomer_s(now, ahead, length, weight, slots.last_total, slots.holders)

    def _wait(self, ticket: Ticket, request_until: float) -> None:
        ticket.waiting = True
        self._weights.add(ticket.weight)
        self._waiting_answers += ticket.claim.answer
        self._waiting_bytes += ticket.size_bytes
        queue_until, reason = ticket.queued_from + self.queue_timeout_s, Reason.QUEUE_TIMEOUT
        if request_until < queue_until:
            queue_until, reason = request_until, Reason.REQUEST_TIMEOUT
        wake_until = ticket.woken_from + self.wake_timeout_s
        own_until = ticket.queued_from + ticket.woken_from + ticket.claim.deadline_s
        self._deadlines.add(ticket, queue_until, reason, wake_until, own_until, live=len(self._order))

    def _forget(self, ticket: Ticket) -> None:
        ticket.waiting = False
        self._weights.remove(ticket.weight)
        self._waiting_answers -= ticket.claim.answer
        self._waiting_bytes -= ticket.size_bytes

    def _expel(self, now: float, ticket: Ticket, reason: Reason, *, by_own: bool = False) -> Refused:
        self._tell_time(now)
        self._order.remove(ticket)
        self._forget(ticket)
        return self._refuse(now, ticket, reason, by_own=by_own)

    def _tell_time(self, now: float) -> None:
        """Before somebody is taken out, for whom another may move up."""
        if self._capped is not None and self._capped.aside:
            self._capped.queue_s = self._deadlines.clocks(now)[0]

    def _refuse(self, now: float, ticket: Ticket, reason: Reason, *, by_own: bool = False) -> Refused:
        self._refused += 1
        ticket.who = None
        # As it was: an estimate is not worth a change in the line.
        head = self._order.head(-inf) if reason is Reason.QUEUE_FULL else None
        view = self._view(now, ticket.weight, ticket.size_bytes, head)
        of = ""
        if self._capped is not None and ticket.claim.most is not None and self.lacks_own(ticket):
            # Others' slots neither help it, nor have they to wait for its return.
            of = ticket.claim.key
            view = self._view_of_key(view, of, ticket.claim.most, self._capped.aside_of(of))
        return Refused(ticket, reason, self._forecast.retry_after_s(now, reason, view, of), by_own)

    def _view_of_key(self, view: View, key: str, most: int, aside: int) -> View:
        return view._replace(
            slots=min(most, view.slots),
            holders=[ticket for ticket in view.holders if ticket.claim.key == key],
            weight=min(most, view.weight),
            line_weight=aside,
        )

    def _line_weight(self) -> int:
        """Slots that those need who wait for slots."""
        largest = self._slots.largest
        aside = self._capped.aside_weights.within(largest) if self._capped is not None else 0
        return self._weights.within(largest) - aside

    def _view(self, now: float, weight: int, size_bytes: int, head: Ticket | None) -> View:
        largest = self._slots.largest
        excess_bytes = self._waiting_bytes + size_bytes - self._queue_max_bytes
        mean_bytes = self._waiting_bytes / len(self._order) if self._waiting_bytes else inf
        return View(
            slots=self._slots.last_total,
            holders=self._slots.holders,
            ready=bool(self._slots.ready),
            weight=min(weight, largest),
            line_weight=self._line_weight(),
            head_weight=1 if head is None else min(head.weight, largest),
            over=max(self._slots.active - self._slots.last_total, 0),
            places=max(1, ceil(excess_bytes / mean_bytes)),
            wake_s=None if self._wake_at is None else self._wake_at - now,
            drain_s=None if self._drain_until is None else self._drain_until - now,
        )
