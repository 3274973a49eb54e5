"""What a ledger says, taken apart: each helper insists on one kind of decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from headgate.gate import Ledger
from headgate.gate.outcomes import Granted, Refused, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.errors import Reason
    from headgate.gate.entries import Ticket
    from headgate.gate.outcomes import Decision, Verdict


def a_ledger(slots: int = 1, mode: Literal["queue", "reject"] = "queue", **settings: Any) -> Ledger:
    ledger = Ledger(queue_mode=mode, **settings)
    ledger.resize(0.0, "e0", slots)
    return ledger


def granted(decision: Decision) -> Ticket:
    assert isinstance(decision, Granted), decision
    return decision.ticket


def waiting(decision: Decision) -> Ticket:
    assert isinstance(decision, Waiting), decision
    return decision.ticket


def reason(decision: Decision) -> Reason:
    assert isinstance(decision, Refused), decision
    return decision.reason


def served(verdicts: Sequence[Verdict]) -> list[Ticket]:
    return [granted(verdict) for verdict in verdicts]
