"""Priority with ageing, over another order: ranks go before each other, and nobody is overtaken for ever.

A request of a rank counts as if it had come ``age_s`` later for each step of its rank, and the rank whose longest
waiter came first by that count is served. So a low request gives way to normal ones that come up to ``age_s``
after it, and to no later one. Within a rank the order beneath decides. Strict priority is an infinite ``age_s``.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import merge
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.gate.entries import Ticket
    from headgate.gate.ordering import Order

AGE_S = 10.0


class _Rank:
    """The waiting of one rank: in the order of their coming, and in the order beneath."""

    __slots__ = ("came", "line")

    def __init__(self, line: Order) -> None:
        self.line = line
        self.came: OrderedDict[Ticket, float] = OrderedDict()  # and when, on the queue clock


class Priority:
    """Ranks, each with an order of its own made by ``beneath``; those who return first of all.

    Args:
        age_s: how much longer a request waits for each step of rank that it stands back.
    """

    __slots__ = ("_age_s", "_beneath", "_ranks", "_returned", "_size")

    def __init__(self, beneath: Callable[[], Order], age_s: float = AGE_S) -> None:
        self._beneath = beneath
        self._age_s = age_s
        self._ranks: dict[int, _Rank] = {}
        self._returned: OrderedDict[Ticket, None] = OrderedDict()
        self._size = 0

    def push(self, ticket: Ticket, *, front: bool = False) -> None:
        if front:
            self._returned[ticket] = None
            return
        rank = self._rank(ticket)
        came = ticket.queued_from
        rank.came[ticket] = came + ticket.aside_s if ticket.aside_s else came
        rank.line.push(ticket)
        self._size += 1

    def head(self, queue_s: float, *, newest: bool = False) -> Ticket | None:
        if self._returned:
            return next(iter(self._returned))
        best: _Rank | None = None
        best_at = (inf, 0)
        for number, rank in self._ranks.items():
            if rank.came:
                at = (self._counted(next(iter(rank.came.values())), number), number)
                if best is None or at < best_at:
                    best, best_at = rank, at
        return None if best is None else best.line.head(queue_s, newest=newest)

    def take(self, ticket: Ticket) -> None:
        if ticket in self._returned:
            del self._returned[ticket]
            return
        rank = self._rank(ticket)
        del rank.came[ticket]
        rank.line.take(ticket)
        self._size -= 1

    def serve(self, ticket: Ticket) -> None:
        self._rank(ticket).line.serve(ticket)

    def settle(self, ticket: Ticket, tokens: float) -> None:
        self._rank(ticket).line.settle(ticket, tokens)

    def remove(self, ticket: Ticket) -> None:
        if ticket in self._returned:
            del self._returned[ticket]
            return
        rank = self._rank(ticket)
        del rank.came[ticket]
        rank.line.remove(ticket)
        self._size -= 1

    def last(self) -> Ticket | None:
        lowest = max((number for number, rank in self._ranks.items() if rank.came), default=None)
        return None if lowest is None else self._ranks[lowest].line.last()

    def before(self, ticket: Ticket) -> int:
        return len(self._returned) + self._rank(ticket).line.before(ticket)

    def __len__(self) -> int:
        return len(self._returned) + self._size

    def __iter__(self) -> Iterator[Ticket]:
        """Ranks merged by the count of their longest waiters, which is near to what ``head`` would do in turn."""
        yield from self._returned
        yield from (entry[3] for entry in merge(*map(self._entries, sorted(self._ranks))))

    def _entries(self, number: int) -> Iterator[tuple[float, int, int, Ticket]]:
        rank = self._ranks[number]
        for i, (came, ticket) in enumerate(zip(rank.came.values(), rank.line, strict=True)):
            yield self._counted(came, number), number, i, ticket

    def _counted(self, came: float, rank: int) -> float:
        return came + rank * self._age_s if rank else came

    def _rank(self, ticket: Ticket) -> _Rank:
        number = ticket.claim.rank
        rank = self._ranks.get(number)
        if rank is None:
            rank = self._ranks[number] = _Rank(self._beneath())
        return rank
