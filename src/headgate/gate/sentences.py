"""What a refused person reads: one sentence for what happened, one for when to come back.

Apart from the shell because words change for other reasons than races do. Which reason it is was decided in
``ledger``.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from headgate.errors import Reason

if TYPE_CHECKING:
    from headgate.gate.ledger import Ledger
    from headgate.gate.outcomes import Refused


def sentence(refused: Refused, ledger: Ledger) -> str:
    """The message of a refusal, from the ledger as it is at that moment."""
    what = _what(refused.reason, refused.ticket.weight, ledger)
    return f"{what} Come back in about {_about(refused.retry_after_s)}."


def _what(reason: Reason, weight: int, ledger: Ledger) -> str:
    match reason:
        case Reason.SLOTS_BUSY:
            return f"{_busy(weight, ledger)}."
        case Reason.QUEUE_FULL if ledger.waiting >= ledger.queue_max:
            return f"{_busy(weight, ledger)} and the line of {ledger.queue_max} is full."
        case Reason.QUEUE_FULL:
            return f"{_busy(weight, ledger)} and the line holds as many bytes as it may."
        case Reason.WAIT_TOO_LONG:
            return f"{_busy(weight, ledger)}, and it would take too long until one comes free."
        case Reason.SHED:
            return "The gateway is under high load and turns away some requests by chance."
        case Reason.QUEUE_TIMEOUT:
            return f"No slot came free within {ledger.queue_timeout_s:g} s."
        case Reason.ENGINE_UNAVAILABLE:
            return f"No engine became ready within {ledger.wake_timeout_s:g} s."
        case Reason.DRAINING:
            return "The gateway is shutting down and takes no new work."
        case _:
            return "The request's time was over before a slot came free."


def _busy(weight: int, ledger: Ledger) -> str:
    slots = ledger.slots
    if not slots:
        return "No engine is ready yet"
    if weight > 1:
        return f"The {min(weight, slots)} slots that this request takes are not free"
    return {1: "The one slot is busy", 2: "Both slots are busy"}.get(slots, f"All {slots} slots are busy")


def _about(seconds: float) -> str:
    return f"{ceil(seconds)} s" if seconds <= 120 else f"{ceil(seconds / 60)} min"
