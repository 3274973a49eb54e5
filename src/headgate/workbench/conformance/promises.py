"""What a gateway promises, which is what it is held to; and the settings in which a started one is tried. Pure.

None is no promise: the cases that would hold it to one say that they don't apply.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Promises(msgspec.Struct, frozen=True, kw_only=True):
    """Limits, in requests and seconds.

    Args:
        max_active: generations on the engine at once.
        queue_max: how many may wait; 0 where nobody waits.
        queue_timeout_s: longest wait.
        request_timeout_s: longest a whole request may take.
        silence_s: longest an engine may say nothing in mid-answer, for gateways that count that instead.
        stall_s: a reader that takes nothing for so long is dropped.
        first_come: who comes first is served first; None where somebody else may be.
    """

    max_active: int | None = None
    queue_max: int | None = None
    queue_timeout_s: float | None = None
    request_timeout_s: float | None = None
    silence_s: float | None = None
    stall_s: float | None = None
    first_come: bool | None = True

    @property
    def hang_s(self) -> float | None:
        """How long a request may last whose engine has fallen silent."""
        given = [limit for limit in (self.request_timeout_s, self.silence_s) if limit is not None]
        return min(given) if given else None

    @property
    def line(self) -> int | None:
        """How many may wait; None where nobody does."""
        return self.queue_max or None

    def but(self, other: Promises) -> Promises:
        """These, and the other's where it has some."""
        given = {name: value for name, value in msgspec.structs.asdict(other).items() if value is not None}
        return msgspec.structs.replace(self, **given | {"first_come": self.first_come and other.first_come})


ROOMY = Promises(max_active=4, queue_max=16, queue_timeout_s=10, request_timeout_s=60, silence_s=60, stall_s=30)
"""Time enough for everything: what is tried here is who gets a slot, and who gives it back."""

BRISK = Promises(max_active=4, queue_max=16, queue_timeout_s=1, request_timeout_s=3, silence_s=3, stall_s=2)
"""Short limits: what is tried here is that they are kept."""

WIDE = Promises(max_active=1000, queue_max=1000, queue_timeout_s=30, request_timeout_s=120, silence_s=60, stall_s=30)
"""Room for a thousand streams at once."""

WORDS = {
    "max_active": "cap on generations at once",
    "queue_max": "bounded line",
    "line": "line to wait in",
    "queue_timeout_s": "longest wait",
    "first_come": "first come, first served",
    "request_timeout_s": "limit on a whole request",
    "hang_s": "limit on an engine's silence",
    "stall_s": "limit on a reader that takes nothing",
}
"""How a missing promise is called."""


def of_status(status: dict[str, Any]) -> Promises:
    """What Headgate's ``/status`` says of its limits; no promise where it says none."""
    slots, queue, limits = (status.get(part) or {} for part in ("slots", "queue", "limits"))
    waits = queue.get("mode") != "reject"
    return Promises(
        max_active=slots.get("max_active") or None,
        queue_max=queue.get("max") if waits else 0,
        queue_timeout_s=queue.get("timeout_s"),
        request_timeout_s=limits.get("request_timeout_s"),
        stall_s=limits.get("send_stall_s"),
        first_come=True if queue.get("order", "fifo") == "fifo" else None,
    )
