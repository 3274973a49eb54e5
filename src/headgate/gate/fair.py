"""Fair shares: whose turn it is, by tokens, between keys and between the users of a key.

Start-time fair queueing (Goyal, Vin, Cheng, 1996), twice: keys share the engine, and the users of a key share what
the key gets. Each member has a virtual time, which its service moves on by tokens over weight; the member that is
furthest behind is next, and one that was away starts where the others are, so nobody saves up. A request is charged
what it is expected to take when it is served, and what it really took when it ends (``settle``).

With one caller this is first come, first served. Ends at the order: how many tokens a request is expected to take
is the caller's estimate, who may enter the line is the ledger's decision.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from headgate.gate.ordering import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.gate.entries import Ticket

_SLACK = 32
"""Heaps keep old entries until they come to the top, or until there are so many more of them than of the others."""
_REMEMBERED = 4096
"""Members of whom nothing waits that are remembered for what they have had."""


class _Member:
    """One of those who share.

    Attributes:
        finish: the virtual time to which its service has brought it.
        start: the virtual time at which its next service begins, while something of its waits.
        waiting, backlog: how many of its requests wait, and how many tokens they are expected to take.
        line: a user's requests that wait, first come, first served.
        users: those who share what a key gets.
    """

    __slots__ = ("backlog", "finish", "line", "owed", "start", "turn", "users", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.finish = self.start = 0.0
        self.waiting = 0
        self.backlog = 0.0
        self.turn = self.owed = 0  # the numbers of its entries in the heaps that are not out of date
        self.line = Turns()
        self.users = _Shares()


class _Shares:
    """Members who share by weight. Who has most waiting is kept from the first time that anybody asks."""

    __slots__ = ("_behind", "_busy", "_most", "_number", "_prune_at", "_time", "members")

    def __init__(self) -> None:
        self.members: dict[str, _Member] = {}
        self._behind: list[tuple[float, int, _Member]] = []
        self._most: list[tuple[float, int, _Member]] | None = None
        self._time = 0.0
        self._busy = 0
        self._number = 0
        self._prune_at = _SLACK

    def member(self, name: str, weight: float = 1.0) -> _Member:
        found = self.members.get(name)
        if found is None:
            if len(self.members) >= self._prune_at:
                self._prune()
            found = self.members[name] = _Member(weight)
        found.weight = weight
        return found

    def enter(self, member: _Member, tokens: float) -> None:
        """One more of its requests waits."""
        member.waiting += 1
        if member.waiting == 1:
            self._busy += 1
            self._turn(member, max(self._time, member.finish))
        self._owe(member, tokens)

    def leave(self, member: _Member, tokens: float) -> None:
        """One of its requests waits no more."""
        member.waiting -= 1
        if not member.waiting:
            self._busy -= 1
        self._owe(member, -tokens)

    def charge(self, member: _Member, tokens: float) -> None:
        """One of its requests is served: its time moves on, and everybody's to where this service began."""
        begins = member.start if member.waiting else member.finish
        if begins > self._time:
            self._time = begins
        member.finish = max(self._time, member.finish) + tokens / member.weight
        if member.waiting:
            self._turn(member, member.finish)

    def correct(self, member: _Member, tokens: float) -> None:
        """Its service took so many tokens more than it was charged; fewer, where negative."""
        member.finish += tokens / member.weight
        if member.waiting:
            self._turn(member, max(self._time, member.finish))

    def behind(self) -> _Member | None:
        """The one that is furthest behind, of those of whom something waits."""
        heap = self._behind
        while heap and not (heap[0][2].waiting and heap[0][1] == heap[0][2].turn):
            heappop(heap)
        return heap[0][2] if heap else None

    def greediest(self) -> _Member | None:
        """The one of whom most waits for its weight."""
        heap = self._most
        if heap is None:
            heap = self._rank_by_owed()
        while heap and not (heap[0][2].waiting and heap[0][1] == heap[0][2].owed):
            heappop(heap)
        return heap[0][2] if heap else None

    def played(self) -> Iterator[Ticket]:
        """All that wait, in the order of service if nobody came or left any more; nothing is changed."""
        if not self._busy:
            return
        turns = [(m.start, m.turn, m, m.users.played() if m.users._busy else iter(m.line)) for m in self._waiting()]
        heapify(turns)
        number = self._number
        while turns:
            start, _, member, line = heappop(turns)
            ticket = next(line, None)
            if ticket is not None:
                yield ticket
                number += 1
                heappush(turns, (start + ticket.tokens / member.weight, number, member, line))

    def _waiting(self) -> Iterator[_Member]:
        return (member for member in self.members.values() if member.waiting)

    def _turn(self, member: _Member, start: float) -> None:
        member.start = start
        self._number = member.turn = self._number + 1
        heappush(self._behind, (start, member.turn, member))
        if len(self._behind) > 2 * self._busy + _SLACK:
            self._behind = [(m.start, m.turn, m) for m in self._waiting()]
            heapify(self._behind)

    def _owe(self, member: _Member, tokens: float) -> None:
        if not member.waiting:
            member.backlog = 0.0  # and no rounding is left over
            return
        member.backlog += tokens
        self._number = member.owed = self._number + 1
        heap = self._most
        if heap is None:
            return
        heappush(heap, (-member.backlog / member.weight, member.owed, member))
        if len(heap) > 2 * self._busy + _SLACK:
            self._rank_by_owed()

    def _rank_by_owed(self) -> list[tuple[float, int, _Member]]:
        heap = self._most = [(-m.backlog / m.weight, m.owed, m) for m in self._waiting()]
        heapify(heap)
        return heap

    def _prune(self) -> None:
        """Forget those whose past makes no difference any more, or, of very many, the least of a difference."""
        kept = [each for each in self.members.items() if each[1].waiting or each[1].finish > self._time]
        if len(kept) > _REMEMBERED:
            kept.sort(key=lambda each: (each[1].waiting > 0, each[1].finish))
            kept = kept[max(0, min(len(kept) - _REMEMBERED // 2, len(kept) - self._busy)) :]
        self.members = dict(kept)
        self._prune_at = 2 * len(kept) + _SLACK


class Fair:
    """Weighted fair shares between keys, and between the users of each; those who return first of all."""

    __slots__ = ("_keys", "_returned", "_size")

    def __init__(self) -> None:
        self._keys = _Shares()
        self._returned: OrderedDict[Ticket, None] = OrderedDict()
        self._size = 0

    def push(self, ticket: Ticket, *, front: bool = False) -> None:
        if front:
            self._returned[ticket] = None
            return
        key, user = self._of(ticket)
        user.line.add(ticket)
        key.users.enter(user, ticket.tokens)
        self._keys.enter(key, ticket.tokens)
        self._size += 1

    def head(self, queue_s: float, *, newest: bool = False) -> Ticket | None:
        if self._returned:
            return next(iter(self._returned))
        key = self._keys.behind()
        if key is None:
            return None
        user = key.users.behind()
        assert user is not None
        return user.line.newest() if newest else user.line.first()

    def take(self, ticket: Ticket) -> None:
        again = ticket in self._returned
        self.remove(ticket)
        if not again:  # it was charged the first time
            self.serve(ticket)

    def serve(self, ticket: Ticket) -> None:
        key, user = self._of(ticket)
        user.line.served(ticket)
        key.users.charge(user, ticket.tokens)
        self._keys.charge(key, ticket.tokens)

    def settle(self, ticket: Ticket, tokens: float) -> None:
        key, user = self._of(ticket)
        key.users.correct(user, tokens - ticket.tokens)
        self._keys.correct(key, tokens - ticket.tokens)
        ticket.tokens = tokens

    def remove(self, ticket: Ticket) -> None:
        if ticket in self._returned:
            del self._returned[ticket]
            return
        key, user = self._of(ticket)
        user.line.discard(ticket)
        key.users.leave(user, ticket.tokens)
        self._keys.leave(key, ticket.tokens)
        self._size -= 1

    def last(self) -> Ticket | None:
        key = self._keys.greediest()
        if key is None:
            return None
        user = key.users.greediest()
        assert user is not None
        return user.line.last()

    def before(self, ticket: Ticket) -> int:
        return len(self._returned) + self._of(ticket)[1].line.before(ticket)

    def __len__(self) -> int:
        return self._size + len(self._returned)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self._returned
        yield from self._keys.played()

    def _of(self, ticket: Ticket) -> tuple[_Member, _Member]:
        claim = ticket.claim
        key = self._keys.member(claim.key, claim.share)
        users = key.users
        return key, users.members.get(claim.user) or users.member(claim.user)
