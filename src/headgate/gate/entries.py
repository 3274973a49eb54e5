"""What is written down about a request (``Ticket``) and about the gate as a whole (``Statistics``).

Apart from the ledger because others read these records too: orders sort tickets, ``/status`` shows the
statistics. Only the ledger and its slots write them. They hold no rule; what may be granted to whom is in
``ledger``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.gate.slots import Bin


@dataclass(slots=True, eq=False)
class Ticket:
    """One offered request: waiting in the line, or holding slots (``held_in``), or ended (neither).

    ``queued_from`` and ``woken_from`` are origins on the queue clock and the wake clock: what a clock shows
    less its origin is what the request has spent under it, the time before a return to the line included.
    """

    number: int
    weight: int
    size_bytes: int
    queued_from: float
    woken_from: float
    waiting: bool = False
    held_in: Bin | None = None
    granted_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """The gate at one moment. ``active`` in slots, ``oldest_wait_s`` in real time, totals since the start."""

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
