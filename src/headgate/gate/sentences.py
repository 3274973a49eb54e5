"""What a refused person reads: one sentence for what happened, one for when to try again.

It is read in a chat window as often as in a log, by people who know of no slots: it begins with what it means for them
(the model is busy, or not ready), and what tells an operator which setting it was comes after. Apart from the shell
because words change for other reasons than races do. Which reason it is was decided in ``ledger``.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from headgate.errors import Reason

if TYPE_CHECKING:
    from headgate.gate.entries import Ticket
    from headgate.gate.ledger import Ledger
    from headgate.gate.outcomes import Refused


def sentence(refused: Refused, ledger: Ledger) -> str:
    """The message of a refusal, from the ledger as it is at that moment."""
    what = _what(refused.reason, refused.ticket, ledger, by_own=refused.by_own)
    return f"{what} Try again in about {about(refused.retry_after_s)}."


def _what(reason: Reason, ticket: Ticket, ledger: Ledger, *, by_own: bool) -> str:
    match reason:
        case Reason.SLOTS_BUSY:
            return f"{_busy(ticket, ledger)}."
        case Reason.QUEUE_FULL if not ledger.queue_max:
            return f"{_busy(ticket, ledger)} and no line is kept."
        case Reason.QUEUE_FULL if ledger.waiting >= ledger.queue_max:
            return f"{_busy(ticket, ledger)} and the line of {ledger.queue_max} is full."
        case Reason.QUEUE_FULL:
            return f"{_busy(ticket, ledger)} and the line holds as many bytes as it may."
        case Reason.WAIT_TOO_LONG if by_own:
            return f"{_busy(ticket, ledger)}, and this request may wait for {ticket.claim.deadline_s:g} s at most."
        case Reason.WAIT_TOO_LONG:
            return f"{_busy(ticket, ledger)}, and it would take too long until one comes free."
        case Reason.SHED:
            return "The gateway is under high load and turns away some requests by chance."
        case Reason.QUEUE_TIMEOUT if ledger.lacks_own(ticket):
            return f"{_busy(ticket, ledger)}, and none of them came free within {ledger.queue_timeout_s:g} s."
        case Reason.QUEUE_TIMEOUT:
            return f"The model is busy: no slot came free within {ledger.queue_timeout_s:g} s."
        case Reason.ENGINE_UNAVAILABLE:
            return f"The model is not ready: no engine came up within {ledger.wake_timeout_s:g} s."
        case Reason.DRAINING:
            return "The gateway is shutting down and takes no new work."
        case _:
            return "The request's time was over before a slot came free."


def _busy(ticket: Ticket, ledger: Ledger) -> str:
    slots, weight = ledger.slots, ticket.weight
    if not slots:
        return "The model is not ready yet"
    if ledger.lacks_own(ticket):
        most = ticket.claim.most
        return f"This key's requests take the {'one slot' if most == 1 else f'{most} slots'} that it may hold at once"
    if weight > 1:
        return f"The model is busy: the {min(weight, slots)} slots that this request takes are not free"
    taken = {1: "its one slot is taken", 2: "both slots are taken"}.get(slots, f"all {slots} slots are taken")
    return f"The model is busy: {taken}"


def about(seconds: float) -> str:
    """A time to come back, for a person."""
    number, unit = (ceil(seconds), "second") if seconds <= 120 else (ceil(seconds / 60), "minute")
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
