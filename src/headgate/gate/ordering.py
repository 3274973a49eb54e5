"""Who is next: the seam for orders of the line, and the plain one, first come first served.

Apart from the ledger so that another order is a class beside ``Fifo`` and nothing else: the ledger asks only
for the head, and lets nobody overtake it. An order decides neither whether a ticket may enter the line nor
when it must leave. The others: ``fair``, ``priority`` (over another order), ``timely`` (likewise).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import zip_longest
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.gate.entries import Ticket


class Order(Protocol):
    """The line, in the order in which it is served.

    What every order keeps: each call but iteration takes O(log n) for n tickets in the line; removal works
    from anywhere, since clients leave from the middle; at one moment, a push changes nothing in the order of
    the others (so that an offer can grant its own ticket or none).
    """

    def push(self, ticket: Ticket, *, front: bool = False) -> None:
        """Put a ticket in. ``front``: it was served before, in vain, and goes before all that never were."""

    def head(self, queue_s: float, *, newest: bool = False) -> Ticket | None:
        """The ticket to be served next at this time on the queue clock, None when the line is empty.

        ``newest``: of the caller whose turn it is the one that came last, instead of the first.
        """

    def take(self, ticket: Ticket) -> None:
        """The head is being served. ``KeyError`` when it is not in the line."""

    def serve(self, ticket: Ticket) -> None:
        """A ticket is being served that never stood in the line."""

    def settle(self, ticket: Ticket, tokens: float) -> None:
        """A ticket that was served has ended, and took so many tokens."""

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out that leaves unserved. ``KeyError`` when it is not in the line."""

    def last(self) -> Ticket | None:
        """Whose place a newcomer takes where the line is full; None where that is nobody's but the newcomer's."""

    def before(self, ticket: Ticket) -> int:
        """How many of those who wait are sure to be served before this one, which came last; no more than that."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Ticket]:
        """All tickets in the order of service, if nobody came or left any more; for ``/status``."""


class Line:
    """First come, first served; those who come back as they were told before those who are new.

    ``OrderedDict`` and not ``dict``, where finding the first key walks over all keys deleted before it.
    """

    __slots__ = ("_booked", "_new")

    def __init__(self) -> None:
        self._booked: OrderedDict[Ticket, None] = OrderedDict()
        self._new: OrderedDict[Ticket, None] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        (self._booked if ticket.claim.booked else self._new)[ticket] = None

    def discard(self, ticket: Ticket) -> None:
        del (self._booked if ticket.claim.booked else self._new)[ticket]

    def first(self) -> Ticket | None:
        return next(iter(self._booked or self._new), None)

    def newest(self) -> Ticket | None:
        """The one that came last, but after those who come back: they have waited elsewhere."""
        return self.first() if self._booked else next(reversed(self._new), None)

    def served(self, ticket: Ticket) -> None:
        """One of them, or one that needed no place in it, is being served."""

    def last(self) -> Ticket | None:
        """Who has least right to its place."""
        return next(reversed(self._new or self._booked), None)

    def before(self, ticket: Ticket) -> int:
        """How many go before one that came last."""
        return len(self._booked) - 1 if ticket.claim.booked else len(self) - 1

    def __len__(self) -> int:
        return len(self._booked) + len(self._new)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self._booked
        yield from self._new


class Turns:
    """Two lines that take turns: those that must be early, and those that need not.

    One line would be the latter's where more is asked than can be done: they only wait longer, and all that wait are
    older than any can be that is still early. Nor is all of it the former's, so nobody waits for ever.
    """

    __slots__ = ("_early", "_patient", "_patients_turn")

    def __init__(self) -> None:
        self._early, self._patient = Line(), Line()
        self._patients_turn = False

    def add(self, ticket: Ticket) -> None:
        self._of(ticket).add(ticket)

    def discard(self, ticket: Ticket) -> None:
        self._of(ticket).discard(ticket)

    def first(self) -> Ticket | None:
        """The first of the line whose turn it is."""
        return self._in_turn().first()

    def newest(self) -> Ticket | None:
        """Likewise, and of those that must be early the one that came last."""
        line = self._in_turn()
        return line.newest() if line is self._early else line.first()

    def served(self, ticket: Ticket) -> None:
        """It is the others' turn."""
        self._patients_turn = ticket.claim.within_s < inf

    def last(self) -> Ticket | None:
        """Who has least right to its place: of those who are new the last of the longer line."""
        shorter, longer = sorted((self._early, self._patient), key=len)
        last, other = longer.last(), shorter.last()
        comes_back = last is not None and last.claim.booked
        return other if comes_back and other is not None and not other.claim.booked else last

    def before(self, ticket: Ticket) -> int:
        """How many go before one that came last, if the lines take turns all the time."""
        own, others = self._of(ticket), self._early if ticket.claim.within_s == inf else self._patient
        before = own.before(ticket)
        return before + min(max(before, 0), len(others))

    def __len__(self) -> int:
        return len(self._early) + len(self._patient)

    def __iter__(self) -> Iterator[Ticket]:
        turns = [iter(self._early), iter(self._patient)]
        if self._in_turn() is self._patient:
            turns.reverse()
        for pair in zip_longest(*turns):
            yield from (ticket for ticket in pair if ticket is not None)

    def _of(self, ticket: Ticket) -> Line:
        return self._early if ticket.claim.within_s < inf else self._patient

    def _in_turn(self) -> Line:
        early, patient = self._early, self._patient
        if not len(patient):
            return early
        if not len(early):
            return patient
        return patient if self._patients_turn else early


class Fifo:
    """First come, first served; those who come back from a dead engine first, in the order of their return.

    ``OrderedDict`` and not ``dict``, where finding the first key walks over all keys deleted before it.

    Args:
        line: how those wait who were never served.
    """

    __slots__ = ("_line", "_returned")

    def __init__(self, line: Callable[[], Line | Turns] = Line) -> None:
        self._line = line()
        self._returned: OrderedDict[Ticket, None] = OrderedDict()

    def push(self, ticket: Ticket, *, front: bool = False) -> None:
        if front:
            self._returned[ticket] = None
        else:
            self._line.add(ticket)

    def head(self, queue_s: float, *, newest: bool = False) -> Ticket | None:
        if self._returned:
            return next(iter(self._returned))
        return self._line.newest() if newest else self._line.first()

    def take(self, ticket: Ticket) -> None:
        self.remove(ticket)
        self.serve(ticket)

    def serve(self, ticket: Ticket) -> None:
        self._line.served(ticket)

    def settle(self, ticket: Ticket, tokens: float) -> None:
        return

    def remove(self, ticket: Ticket) -> None:
        if ticket in self._returned:
            del self._returned[ticket]
        else:
            self._line.discard(ticket)

    def last(self) -> Ticket | None:
        return self._line.last()

    def before(self, ticket: Ticket) -> int:
        return len(self._returned) + self._line.before(ticket)

    def __len__(self) -> int:
        return len(self._line) + len(self._returned)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self._returned
        yield from self._line
