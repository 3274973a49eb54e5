"""What is written down about a request (``Ticket``), and how the gate is shown: as a whole (``Statistics``), and
who holds its slots (``Holder``) or stands in its line (``Waiter``).

Apart from the ledger because others read these records too: orders sort tickets, ``/status`` shows the
rest. Only the ledger and its slots write them. They hold no rule; what may be granted to whom is in
``ledger``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from headgate.gate.slots import Bin


class Claim(NamedTuple):
    """What an order may know of a request.

    Attributes:
        key, user: whose it is: fair shares go to keys, and within a key to its users.
        share: the key's weight against other keys.
        rank: how far it stands back: 0 normal, below 0 sooner, above 0 later.
        tokens: how many it is expected to take, prompt and answer.
        within_s: its answer is good if its first token comes so soon after its arrival; inf: whenever.
        deadline_s: it is of no use if it has no slot so soon after its arrival, whether an engine is ready or not: it
            is refused then, or at once.
        most: slots that its key may hold; None: all (``capped``).
        booked: it was refused before, and comes back at the time that it was told.
        answer: how long each of its answers is expected to be, in tokens.
    """

    key: str = ""
    user: str = ""
    share: float = 1.0
    rank: int = 0
    tokens: float = 1.0
    within_s: float = inf
    deadline_s: float = inf
    most: int | None = None
    booked: bool = False
    answer: float = 1.0


NOBODY = Claim()


@dataclass(slots=True, eq=False)
class Ticket:
    """One offered request: waiting in the line, or holding slots (``held_in``), or ended (neither).

    ``queued_from`` and ``woken_from`` are origins on the queue clock and the wake clock: what a clock shows
    less its origin is what the request has spent under it, the time before a return to the line included.
    ``predicted_s`` is the wait that was forecast when it came, where it had to wait.
    ``tokens`` begins as what the claim says, and becomes what was charged for it.
    ``for_own``: it has had to wait for others of its own key; ``aside_s``: for so long, on the queue clock; known when
    it has moved up or left.
    ``who`` is the caller's own; the gate only hands it out with what it shows, and lets go of it at the end: a
    heap of deadlines may keep the ticket for longer.
    """

    number: int
    weight: int
    size_bytes: int
    queued_from: float
    woken_from: float
    waiting: bool = False
    held_in: Bin | None = None
    granted_at: float = 0.0
    claim: Claim = NOBODY
    tokens: float = 1.0
    predicted_s: float | None = None
    who: Any = None
    for_own: bool = False
    aside_s: float = 0.0


class Weights:
    """What many tickets weigh together.

    Attributes:
        all: each as it came, in slots.
    """

    __slots__ = ("_heavy", "all")

    def __init__(self) -> None:
        self.all = 0
        self._heavy: dict[int, int] = {}  # of each weight over 1, how many there are

    def add(self, weight: int) -> None:
        self.all += weight
        if weight > 1:
            self._heavy[weight] = self._heavy.get(weight, 0) + 1

    def remove(self, weight: int) -> None:
        self.all -= weight
        if weight > 1:
            self._heavy[weight] -= 1
            if not self._heavy[weight]:
                del self._heavy[weight]

    def within(self, most: int) -> int:
        """Each cut to ``most``, the largest engine's slots, which is more than it will ever take."""
        if most < 1:  # no engine has ever been ready
            return 0
        return self.all - sum([(weight - most) * number for weight, number in self._heavy.items() if weight > most])


class Holder(NamedTuple):
    """One who holds slots, so many (``weight``), for ``held_s`` until now; ``number`` is its ticket's."""

    number: int
    who: Any
    engine: str
    weight: int
    held_s: float


class Waiter(NamedTuple):
    """One in the line; ``waited_s`` in real time, ``eta_s`` until its slots; None where nobody can tell."""

    number: int
    who: Any
    weight: int
    waited_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The gate at one moment. ``active`` in slots, ``oldest_wait_s`` in real time, totals since the start.

    ``aside`` is how many of those who wait do so for others of their key, and not for slots; ``held_back`` are slots
    that came free in a bunch and are given out a moment later; ``late`` have waited too long already to be served in
    time.
    """

    slots: int
    active: int
    slots_by_engine: Mapping[str, int]
    active_by_engine: Mapping[str, int]
    waiting: int
    waiting_bytes: int
    oldest_wait_s: float
    granted_total: int
    refused_total: int
    draining: bool
    aside: int = 0
    held_back: int = 0
    late: int = 0
