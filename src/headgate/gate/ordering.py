"""Who is next: the seam for orders of the line, and the plain one, first come first served.

Apart from the ledger so that another order is a class beside ``Fifo`` and nothing else: the ledger asks only
for the head, and lets nobody overtake it. An order decides neither whether a ticket may enter the line nor
when it must leave.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.gate.entries import Ticket


class Order(Protocol):
    """The line, in the order in which it is served.

    What every order keeps: each call but iteration takes O(log n) for n tickets in the line; removal works
    from anywhere, since clients leave from the middle; a push changes nothing in the order of the others (so
    that an offer can grant its own ticket or none). Every ticket passes through the order, those that are
    granted at once too, so an order that charges for service sees all of it: ``pop`` is service, ``remove``
    is leaving without.
    """

    def push(self, ticket: Ticket, *, front: bool = False) -> int:
        """Put a ticket in; return its place from 1. ``front``: before all that were never granted."""

    def head(self) -> Ticket | None:
        """The ticket to be served next, None when the line is empty."""

    def pop(self) -> Ticket:
        """Take the head out: it is being served. ``KeyError`` when the line is empty."""

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out that leaves unserved. ``KeyError`` when it is not in the line."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Ticket]:
        """All tickets in the order of service; O(n), for ``/status`` and for clearing the line."""


class Fifo:
    """First come, first served; those who come back from a dead engine first, in the order of their return.

    ``OrderedDict`` and not ``dict``, where finding the first key walks over all keys deleted before it.
    """

    __slots__ = ("_line", "_returned")

    def __init__(self) -> None:
        self._line: OrderedDict[Ticket, None] = OrderedDict()
        self._returned: OrderedDict[Ticket, None] = OrderedDict()

    def push(self, ticket: Ticket, *, front: bool = False) -> int:
        if front:
            self._returned[ticket] = None
            return len(self._returned)
        self._line[ticket] = None
        return len(self._line) + len(self._returned)

    def head(self) -> Ticket | None:
        return next(iter(self._returned or self._line), None)

    def pop(self) -> Ticket:
        return (self._returned or self._line).popitem(last=False)[0]

    def remove(self, ticket: Ticket) -> None:
        del (self._returned if ticket in self._returned else self._line)[ticket]

    def __len__(self) -> int:
        return len(self._line) + len(self._returned)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self._returned
        yield from self._line
