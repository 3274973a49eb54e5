"""Keys that may hold only so many slots (``most`` of a claim), over another order.

Of each such key no more is in the line beneath, or holds slots, than it may hold; the rest stands aside and moves up
as its own leave or end. So whoever is next beneath may always be granted, others go past those who stand aside, and
each step takes O(log n) (``last`` looks at every key that has a cap). A request that is heavier than its cap has its
turn when the key has nothing else. Those who come back from a dead engine had their turn already, and pass. How long
one stood aside makes it no older for the line beneath: it is as if its key had sent it when it moved up.

Its limit: which of a key's requests is in the line beneath is decided when there is room for it there, by the same
order among the key's own. One that is more urgent and comes later takes no turn from one that has it already.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from headgate.gate.entries import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.gate.entries import Ticket
    from headgate.gate.ordering import Order


class _Key:
    """One key with a cap: the weight of its requests that have their turn or hold slots, and those that stand aside."""

    __slots__ = ("aside", "aside_weight", "weight")

    def __init__(self, aside: Order) -> None:
        self.weight = self.aside_weight = 0
        self.aside = aside


class Capped:
    """The order beneath, and for each key at its cap another one like it.

    Attributes:
        beneath: those who may be granted; whoever stands aside isn't in it.
        aside_weights, aside_answers: of all who stand aside.
        queue_s: what the queue clock shows; its owner sets it before each change.
    """

    __slots__ = ("_counted", "_keys", "_make", "_stand_aside", "aside_answers", "aside_weights", "beneath", "queue_s")

    def __init__(self, beneath: Callable[[], Order]) -> None:
        self._make = beneath
        self.beneath = beneath()
        self._keys: dict[str, _Key] = {}
        self._counted: dict[Ticket, int] = {}
        # Each with its weight, which a grant may cut later, and when it began, less what it had stood aside before.
        self._stand_aside: dict[Ticket, tuple[int, float]] = {}
        self.aside_weights = Weights()
        self.aside_answers = 0.0
        self.queue_s = 0.0

    def stands_aside(self, ticket: Ticket) -> bool:
        """Whether it waits for others of its key, and not for slots."""
        return ticket in self._stand_aside

    @property
    def aside(self) -> int:
        """How many stand aside."""
        return len(self._stand_aside)

    def aside_of(self, name: str) -> int:
        """What those of one key weigh."""
        key = self._keys.get(name)
        return key.aside_weight if key is not None else 0

    def admits(self, ticket: Ticket) -> bool:
        """Whether a newcomer may be granted at once, as far as its key goes."""
        key = self._keys.get(ticket.claim.key)
        return key is None or self._has_room(key, ticket, ticket.weight)

    def push(self, ticket: Ticket, *, front: bool = False) -> None:
        if front or ticket.claim.most is None:
            self.beneath.push(ticket, front=front)
            if front:
                self.begin(ticket)
            return
        key = self._key(ticket)
        if not self._has_room(key, ticket, ticket.weight) or not self._is_first(key, ticket):
            key.aside.push(ticket)
            ticket.for_own = True
            self._stand_aside[ticket] = ticket.weight, self.queue_s - ticket.aside_s
            key.aside_weight += ticket.weight
            self.aside_weights.add(ticket.weight)
            self.aside_answers += ticket.claim.answer
        else:
            self.beneath.push(ticket)
            self._count(key, ticket, ticket.weight)

    def head(self, queue_s: float, *, newest: bool = False) -> Ticket | None:
        return self.beneath.head(queue_s, newest=newest)

    def take(self, ticket: Ticket) -> None:
        self.beneath.take(ticket)

    def serve(self, ticket: Ticket) -> None:
        self.beneath.serve(ticket)
        self.begin(ticket)

    def settle(self, ticket: Ticket, tokens: float) -> None:
        self.beneath.settle(ticket, tokens)

    def remove(self, ticket: Ticket) -> None:
        if ticket in self._stand_aside:
            key = self._keys[ticket.claim.key]
            key.aside.remove(ticket)
            self._not_aside(key, ticket)
            if self._has_room(key, ticket, 1):
                self._move_up(key)  # a heavy one may have been in the way of light ones
        else:
            self.beneath.remove(ticket)
            self.end(ticket)

    def begin(self, ticket: Ticket) -> None:
        """It holds slots, or is about to, whatever its key's cap."""
        if ticket.claim.most is not None and ticket not in self._counted:
            self._count(self._key(ticket), ticket, ticket.weight)

    def end(self, ticket: Ticket) -> None:
        """It has no turn and no slots any more: those of its key that stand aside move up."""
        weight = self._counted.pop(ticket, None)
        if weight is None:
            return
        name = ticket.claim.key
        key = self._keys[name]
        key.weight -= weight
        self._move_up(key)
        if not key.weight:
            del self._keys[name]

    def _move_up(self, key: _Key) -> None:
        # The time doesn't matter to who is first of one key's: late ones are behind either way.
        while (first := key.aside.head(-inf)) is not None and self._has_room(key, first, self._stand_aside[first][0]):
            key.aside.take(first)
            weight = self._not_aside(key, first)
            self.beneath.push(first)
            self._count(key, first, weight)

    def last(self) -> Ticket | None:
        """The key of which most stands aside gives its last place first."""
        fullest = max(self._keys.values(), key=lambda key: len(key.aside), default=None)
        if fullest is not None and len(fullest.aside):
            return fullest.aside.last()
        return self.beneath.last()

    def before(self, ticket: Ticket) -> int:
        return 0 if ticket in self._stand_aside else self.beneath.before(ticket)

    def __len__(self) -> int:
        return len(self.beneath) + len(self._stand_aside)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self.beneath
        for key in self._keys.values():
            yield from key.aside

    def _key(self, ticket: Ticket) -> _Key:
        key = self._keys.get(ticket.claim.key)
        if key is None:
            key = self._keys[ticket.claim.key] = _Key(self._make())
        return key

    def _has_room(self, key: _Key, ticket: Ticket, weight: int) -> bool:
        most = ticket.claim.most
        return most is None or not key.weight or key.weight + weight <= most

    def _is_first(self, key: _Key, ticket: Ticket) -> bool:
        """Whether a newcomer goes before all of its key that stand aside.

        It takes no turn of theirs: that could bring another forward, and who comes is granted itself, or nobody is.
        """
        if not len(key.aside):
            return True
        key.aside.push(ticket)
        first = key.aside.head(-inf)
        key.aside.remove(ticket)
        return first is ticket

    def _not_aside(self, key: _Key, ticket: Ticket) -> int:
        weight, since_s = self._stand_aside.pop(ticket)
        ticket.aside_s = max(self.queue_s - since_s, 0.0)
        key.aside_weight -= weight
        self.aside_weights.remove(weight)
        self.aside_answers -= ticket.claim.answer
        return weight

    def _count(self, key: _Key, ticket: Ticket, weight: int) -> None:
        key.weight += weight
        self._counted[ticket] = weight
