"""What the ledger can say to a request: granted, waiting, refused.

Decisions are data, so that the ledger stays without I/O: it returns what is to be done, and ``gate`` does it.
They are tuples with names because one is made for every request. The sentence that a person reads is in
``sentences``, the HTTP status in the API layer.
"""

from __future__ import annotations

from typing import NamedTuple

from headgate.errors import Reason
from headgate.gate.entries import Ticket


class Granted(NamedTuple):
    """Slots on ``engine`` are reserved for the ticket from this moment on.

    ``waited_s`` counts the time in the line while an engine was ready, ``waking_s`` while none was.
    """

    ticket: Ticket
    engine: str
    waited_s: float
    waking_s: float


class Waiting(NamedTuple):
    """The ticket stands in the line; a later call returns its grant or refusal.

    ``displaced`` is the refusal of another, whose place in a full line it took.
    """

    ticket: Ticket
    displaced: Refused | None = None


class Refused(NamedTuple):
    """The ticket has ended without a slot; ``retry_after_s`` > 0 is when coming back makes sense.

    ``by_own``: it is the caller's own deadline that is, or would be, passed.
    """

    ticket: Ticket
    reason: Reason
    retry_after_s: float
    by_own: bool = False


Verdict = Granted | Refused
Decision = Granted | Waiting | Refused
