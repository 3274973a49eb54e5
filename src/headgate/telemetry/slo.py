"""Whether an answer was a good one: the objectives, and the verdict on each request at its end.

Pure, and apart from the metrics that count its verdicts, because it holds the rule: what is judged at all, and which
objective is named where several were missed. It ends at one word; who counts it, and what follows, is others' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headgate.errors import Reason

OK = "ok"
LEFT = "client_left"

NOT_OURS = frozenset(
    (
        LEFT,
        *(Reason.INVALID_REQUEST, Reason.UNAUTHORIZED, Reason.FORBIDDEN, Reason.NOT_FOUND),
        *(Reason.TOO_LARGE, Reason.HEAD_TOO_LARGE, Reason.REQUEST_INCOMPLETE),
        *(Reason.UNSUPPORTED_MEDIA_TYPE, Reason.RATE_LIMITED),
    )
)
"""Ends that say nothing of how well the gateway serves: the caller's own faults, asking for more than it may among
them, and clients that left."""


WAITED = frozenset(
    (Reason.SLOTS_BUSY, Reason.QUEUE_FULL, Reason.WAIT_TOO_LONG, Reason.QUEUE_TIMEOUT, Reason.REQUEST_TIMEOUT)
)
"""Ends of those who waited in vain, or not at all."""


class Verdict(StrEnum):
    """What became of a request that was the gateway's to serve: met, or the first objective that it missed."""

    MET = "met"
    REFUSED = "refused"
    FAILED = "failed"
    TTFT = "ttft"
    ITL = "itl"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a good answer is, in seconds; None: that is not asked of it."""

    ttft_s: float | None = None
    itl_s: float | None = None
    latency_s: float | None = None

    def in_force(self) -> dict[str, float]:
        """The objectives that there are, by the verdict that missing them has."""
        each = {Verdict.TTFT: self.ttft_s, Verdict.ITL: self.itl_s, Verdict.LATENCY: self.latency_s}
        return {str(verdict): limit_s for verdict, limit_s in each.items() if limit_s is not None}


def judge(
    objectives: Objectives,
    *,
    reason: str,
    began: bool,
    ttft_s: float | None,
    itl_s: float | None,
    latency_s: float,
    for_own: bool = False,
) -> Verdict | None:
    """The verdict on one ended request; None where it is not the gateway's to answer for.

    Args:
        reason: how it ended: ``ok``, ``client_left``, or a ``Reason``.
        began: whether anything of the engine's answer had reached the client: what goes wrong later is a failure, what
            goes wrong before is a refusal.
        ttft_s: from arrival to the first event; None where the answer was no stream.
        itl_s: the mean gap between its events; None where there were fewer than two.
        latency_s: from arrival to its end.
        for_own: it had to wait for others of its own key: how long that took is not the gateway's doing.
    """
    if reason in NOT_OURS or (for_own and (reason == OK or (reason in WAITED and not began))):
        return None
    if reason != OK:
        return Verdict.FAILED if began else Verdict.REFUSED
    if _missed(ttft_s, objectives.ttft_s):
        return Verdict.TTFT
    if _missed(itl_s, objectives.itl_s):
        return Verdict.ITL
    if _missed(latency_s, objectives.latency_s):
        return Verdict.LATENCY
    return Verdict.MET


def _missed(took_s: float | None, limit_s: float | None) -> bool:
    return took_s is not None and limit_s is not None and took_s > limit_s
