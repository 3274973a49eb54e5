"""What is claimed, and the case that tries it.

A claim names what it needs: ``script`` (the scripted engine), ``engine`` (any way to see what runs on one), and
promises. Without them it doesn't apply. ``under`` is what a gateway is set to where we start it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from headgate.workbench.conformance.caller import Way
from headgate.workbench.conformance.cases import failing, gate, leaving, streaming
from headgate.workbench.conformance.promises import BRISK, ROOMY, WIDE, Promises
from headgate.workbench.conformance.site import Site
from headgate.workbench.conformance.verdict import Held

PATIENCE_S = 20.0

Case = Callable[[Site], Awaitable[Held]]
Patient = Callable[[Site, float], Awaitable[Held]]


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the table."""

    name: str
    says: str
    case: Case | Patient
    under: Promises = ROOMY
    engine: bool = False
    script: bool = False
    promises: tuple[str, ...] = ("max_active",)
    patient: bool = False
    """It is told how long one is willing to wait for a promise to come due."""

    def run(self, site: Site, patience_s: float) -> Awaitable[Held]:
        """Try it."""
        return self.case(site, patience_s) if self.patient else self.case(site)  # type: ignore[call-arg]


_LINE = ("max_active", "line")
_REFUSED: dict[str, Any] = {"under": BRISK, "promises": ("max_active", "queue_max"), "patient": True}

_WAYS: tuple[tuple[Way, str], ...] = (("close", ""), ("half-close", ", half-closed"), ("reset", ", by reset"))

CLAIMS: tuple[Claim, ...] = (
    Claim("cap-burst", "A burst never puts more on the engine than the cap", gate.burst, engine=True),
    Claim(
        "cap-storm",
        "Nor do clients that leave at once, in every way; those who stay are served",
        gate.storm,
        script=True,
    ),
    Claim("order", "Who comes first is served first", gate.order, promises=(*_LINE, "first_come")),
    Claim(
        "longest-wait",
        "Nobody waits longer than is promised",
        gate.longest_wait,
        BRISK,
        promises=(*_LINE, "queue_timeout_s"),
        patient=True,
    ),
    Claim("refusal-status", "Who gets no slot is told 429 or 503", gate.refusal_status, **_REFUSED),
    Claim("refusal-shape", "A refusal is an error in OpenAI's shape", gate.refusal_shape, **_REFUSED),
    Claim(
        "refusal-retry-after", "A refusal says when to come back: `Retry-After`", gate.refusal_retry_after, **_REFUSED
    ),
    Claim(
        "retry-honest",
        "Coming back then works, for 9 of 10 after a burst",
        gate.retry_honest,
        promises=("max_active", "queue_max"),
        patient=True,
    ),
    *(
        Claim(
            f"leave-{stage}-{way}",
            f"A client leaves {where}{how}: its slot comes back, the engine's work ends",
            partial(case, way=way),
            script=stage == "waiting",
            promises=_LINE if stage == "queued" else ("max_active",),
        )
        for stage, where, case in (
            ("queued", "the line", leaving.queued),
            ("waiting", "before the first byte", leaving.waiting),
            ("streaming", "in mid-stream", leaving.streaming),
        )
        for way, how in _WAYS
    ),
    Claim(
        "cancel-quick", "Cancel reaches the engine within 5 events, for 9 of 10", leaving.cancel_is_quick, script=True
    ),
    Claim("slow-reader", "A slow reader gets everything and holds nobody up", streaming.slow_reader, script=True),
    Claim(
        "stalled-reader",
        "A reader that takes nothing is dropped in time, its slot comes back",
        streaming.stalled_reader,
        BRISK,
        script=True,
        promises=("max_active", "stall_s"),
        patient=True,
    ),
    Claim("engine-crash", "The engine is killed: clients are told, slots come back", failing.crash, script=True),
    Claim(
        "engine-hang",
        "The engine hangs: clients are told in time, slots come back",
        failing.hang,
        BRISK,
        script=True,
        promises=("max_active", "hang_s"),
        patient=True,
    ),
    *(
        Claim(
            f"engine-{kind}",
            f"The engine {what}: no answer looks whole, slots come back",
            partial(failing.breaks, kind=kind),
            script=True,
        )
        for kind, what in (
            ("cut", "cuts answers short"),
            ("reset", "resets answers"),
            ("garbage", "sends garbage in answers"),
        )
    ),
    Claim(
        "engine-garbage-head", "The engine answers with garbage: a 5xx, slots come back", failing.no_head, script=True
    ),
    Claim("error-event", "An error after 200 is an event in the stream", failing.error_is_an_event, script=True),
    Claim(
        "timeout-stream",
        "A request that takes too long is ended, its slot comes back",
        failing.too_long,
        BRISK,
        script=True,
        promises=("max_active", "request_timeout_s"),
        patient=True,
    ),
    Claim(
        "timeout-silent",
        "An engine that says nothing: an error's status in time, slots come back",
        failing.no_answer,
        BRISK,
        script=True,
        promises=("max_active", "hang_s"),
        patient=True,
    ),
    Claim("text", "No text is lost, doubled or reordered in parallel streams", streaming.text, WIDE, script=True),
    Claim("drain", "A shutdown loses no stream, and nobody who waits unheard", streaming.drain, script=True),
)


def chosen(only: Sequence[str]) -> list[Claim]:
    """Those so called, or whose name begins so; all where nothing is said. Raises ValueError."""
    if not only:
        return list(CLAIMS)
    for wanted in only:
        if not any(claim.name.startswith(wanted) for claim in CLAIMS):
            raise ValueError(f"there is no case {wanted!r}: --list shows them")
    return [claim for claim in CLAIMS if claim.name.startswith(tuple(only))]
