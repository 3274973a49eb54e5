"""Those who can still be served in time go first, over another order.

Where more is asked than can be done, a line that serves everyone in turn serves everyone too late: each has just
waited longer than an answer is of use (``within_s`` of its claim: the objective for the first token, or its own
deadline). Here whoever can't be served in time any more is parked behind those who can, and is served when none of
them waits but less urgent ones. Nobody is thrown out for being late; where the line is full, one of the least urgent
gives its place to a newcomer, and there one of whoever has most waiting, late or not: the one that was parked first.
(Of all that were parked the first, whose it is: then a caller who sends ten times as much pushes the others out.)

It is earliest deadline first with late work set aside (Moore and Hodgson's rule for the fewest late jobs, on line), and
does what controlled delay (CoDel; Nichols and Jacobson, 2012) does by dropping.

Earliest deadline first serves as many in time as can be, each of them at the last moment. Where far more is asked than
can be done it costs nothing to turn it round (adaptive LIFO; Maurer, "Fail at Scale", 2015): as many are served, of a
caller's the newest first, each at once and with all of its time left for the engine.

``lead_s`` is how long before its deadline a request must be granted: the engine needs that to its first token.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.gate.entries import Ticket
    from headgate.gate.ordering import Order

Whose = tuple[int, str, str, bool]
"""A rank, a key and a user, and whether it comes back as it was told."""

_SLACK = 32
_LEAD_MOST = 0.8
"""Of what a claim allows: an engine that takes longer than that is late with everybody, and parking helps nobody."""
CROWD = 1 / 4
"""The share of a rank's requests that must have missed their time, or a place, for the newest to go first. Where fewer
do, in bursts, oldest first serves up to a twentieth more of them in time."""
CROWD_OF = 64
"""Over about so many requests."""
FRESH = 1 / 16
"""Of what its claim allows, so much at most the newest has waited. Else no more come: the rest goes oldest first."""
LINE_LEAST = 1 / 8
"""Of the objective for the whole answer, what is the line's however long answers take: with no line at all slots stand
empty between two arrivals. The rest is the engine's."""


def first_within_s(ttft_s: float | None, latency_s: float | None, long_s: float) -> float:
    """How soon after its arrival a request must have begun for its answer to be good; inf: whenever.

    Args:
        ttft_s: the objective for its first token, None where it has none.
        latency_s: the objective for the whole answer.
        long_s: how long a long answer takes from its grant.
    """
    within_s = inf if ttft_s is None else ttft_s
    if latency_s is not None:
        within_s = min(within_s, max(latency_s - long_s, LINE_LEAST * latency_s))
    return within_s


class Timely:
    """Two lines: those in time, in the order that ``beneath`` makes, and those parked, in that of ``late``.

    One who is parked goes before those in time of a lower rank: nobody is late only because lesser ones came after it.
    So ``late`` must have the highest rank first.

    Args:
        shared: ``beneath`` shares between callers, and does it in a full line too.
        crowd_of: over about how many requests it is looked at how many missed their time.

    Attributes:
        lead_s: from the grant to the first token; who is nearer to its deadline than this is late.
    """

    __slots__ = (
        "_all",
        "_crowd_of",
        "_due",
        "_in_time",
        "_missed",
        "_parked",
        "_returned",
        "_shared",
        "_since",
        "_watched",
        "lead_s",
    )

    def __init__(
        self,
        beneath: Callable[[], Order],
        late: Callable[[], Order] | None = None,
        *,
        shared: bool = False,
        crowd_of: int = CROWD_OF,
    ) -> None:
        self.lead_s = 0.0
        self._in_time = beneath()
        self._parked = (late or beneath)()
        self._shared = shared
        # Both lines in one, since who has most waiting shows in neither; but those who return, who never give way.
        self._all = beneath()
        self._since: dict[Whose, OrderedDict[Ticket, None]] = {}
        self._due: list[tuple[float, int, Ticket]] = []
        self._watched: set[Ticket] = set()
        self._returned: set[Ticket] = set()
        self._crowd_of = crowd_of
        self._missed: dict[int, float] = {}  # by rank, the share of the latest that missed their time or place

    @property
    def next_late_s(self) -> float:
        """When the next of those in time is too late, on the queue clock; inf: none will be."""
        due = self._due
        while due and due[0][2] not in self._watched:
            heappop(due)
        return self._late_at(*due[0][::2]) if due else inf

    @property
    def parked(self) -> int:
        """How many are too late to be served in time."""
        return len(self._parked)

    def push(self, ticket: Ticket, *, front: bool = False) -> None:
        self._in_time.push(ticket, front=front)
        if front:
            self._returned.add(ticket)
            return
        self._all.push(ticket)
        if ticket.claim.within_s == inf:
            return
        self._watched.add(ticket)
        heappush(self._due, (ticket.queued_from + ticket.aside_s + ticket.claim.within_s, ticket.number, ticket))
        if len(self._due) > 2 * len(self._watched) + _SLACK:
            self._due = [entry for entry in self._due if entry[2] in self._watched]
            heapify(self._due)

    def head(self, queue_s: float, *, newest: bool = False) -> Ticket | None:
        self.park(queue_s)
        in_time, parked = self._in_time.head(queue_s, newest=newest), self._parked.head(queue_s)
        if in_time is None:
            return parked
        if in_time in self._returned or parked is None or parked.claim.rank >= in_time.claim.rank:
            return in_time if newest or not self._is_crowd(in_time) else self._newest(in_time, queue_s)
        return parked

    def take(self, ticket: Ticket) -> None:
        if self._unpark(ticket):
            self._parked.take(ticket)
            self._in_time.serve(ticket)  # one account for both lines: the other's charge is only for its turns
        else:
            self._in_time.take(ticket)
            self._note(ticket, missed=False)
        self._forget(ticket)

    def serve(self, ticket: Ticket) -> None:
        self._in_time.serve(ticket)
        self._note(ticket, missed=False)

    def settle(self, ticket: Ticket, tokens: float) -> None:
        self._in_time.settle(ticket, tokens)

    def remove(self, ticket: Ticket) -> None:
        if self._unpark(ticket):
            self._parked.remove(ticket)
        else:
            self._in_time.remove(ticket)
            self._note(ticket, missed=True)
        self._forget(ticket)

    def last(self) -> Ticket | None:
        """Of the lowest rank, and there of whoever has most waiting, the one that was parked first; else the newest."""
        newest = self._all.last()
        parked = None if newest is None else self._since.get(self._whose(newest))
        return next(iter(parked)) if parked else newest

    def is_chance(self, ticket: Ticket) -> bool:
        """Whether nobody can tell when it will be served: of a crowd's the newest goes first, and more will come."""
        return self._is_crowd(ticket) and ticket not in self._returned and not self._is_parked(ticket)

    def before(self, ticket: Ticket) -> int:
        if self._is_crowd(ticket) or self._is_parked(ticket):
            return 0
        return self._in_time.before(ticket)

    def __len__(self) -> int:
        return len(self._in_time) + len(self._parked)

    def __iter__(self) -> Iterator[Ticket]:
        """A crowd's in the order of their coming: of those in time nobody knows who will be served."""
        yield from self._in_time
        yield from self._parked

    def park(self, queue_s: float) -> None:
        """Set aside those who can't be served in time any more. ``head`` does; ``last`` and ``before`` have no time."""
        due = self._due
        while due:
            due_s, _, ticket = due[0]
            if ticket in self._watched and self._late_at(due_s, ticket) > queue_s:
                break
            heappop(due)
            if ticket in self._watched:
                self._watched.remove(ticket)
                self._in_time.remove(ticket)
                self._note(ticket, missed=True)
                self._parked.push(ticket)
                self._since.setdefault(self._whose(ticket), OrderedDict())[ticket] = None

    def _late_at(self, due_s: float, ticket: Ticket) -> float:
        return due_s - min(self.lead_s, _LEAD_MOST * ticket.claim.within_s)

    def _is_parked(self, ticket: Ticket) -> bool:
        return ticket in self._since.get(self._whose(ticket), ())

    def _is_crowd(self, ticket: Ticket) -> bool:
        """Whether far more of its rank comes than can be served in time."""
        claim = ticket.claim
        return claim.within_s < inf and self._missed.get(claim.rank, 0.0) > CROWD

    def _newest(self, oldest: Ticket, queue_s: float) -> Ticket:
        """Who is served instead of the oldest of its caller's.

        Itself where it takes more slots than one: they would never come free together. Nor is it overtaken by one that
        does, or that has no need to be early.
        """
        newest = self._in_time.head(queue_s, newest=True)
        if newest is None or newest.weight > 1 or oldest.weight > 1:
            return oldest
        within_s, waited_s = newest.claim.within_s, queue_s - newest.queued_from
        return newest if within_s < inf and 0 <= waited_s <= FRESH * within_s else oldest

    def _note(self, ticket: Ticket, *, missed: bool) -> None:
        """One that had to be early was granted its slots in time, or ``missed`` its time or its place."""
        claim = ticket.claim
        if claim.within_s < inf:
            share = self._missed.get(claim.rank, 0.0)
            self._missed[claim.rank] = share + (missed - share) / self._crowd_of

    def _whose(self, ticket: Ticket) -> Whose:
        """Among whose a place is looked for, where it has to be given up."""
        claim = ticket.claim
        key, user = (claim.key, claim.user) if self._shared else ("", "")
        return claim.rank, key, user, claim.booked

    def _forget(self, ticket: Ticket) -> None:
        """It waits no more."""
        self._watched.discard(ticket)
        if ticket in self._returned:
            self._returned.remove(ticket)
        else:
            self._all.remove(ticket)

    def _unpark(self, ticket: Ticket) -> bool:
        """Whether it was parked; it isn't any more."""
        whose = self._whose(ticket)
        parked = self._since.get(whose)
        if parked is None or ticket not in parked:
            return False
        del parked[ticket]
        if not parked:
            del self._since[whose]
        return True
