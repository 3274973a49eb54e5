"""Why a request was not served: one small enumeration, one flat exception.

The reasons are the contract: they appear as ``error.code``, in ``x-headgate-reason`` and as a metric label, so they
are few and fixed. Which HTTP status a reason has is decided in ``api.problems`` and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """What ended a request that was not answered."""

    SLOTS_BUSY = "slots_busy"
    RATE_LIMITED = "rate_limited"
    QUEUE_FULL = "queue_full"
    WAIT_TOO_LONG = "wait_too_long"
    SHED = "shed"
    QUEUE_TIMEOUT = "queue_timeout"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    DRAINING = "draining"
    ENGINE_FAILED = "engine_failed"
    REQUEST_TIMEOUT = "request_timeout"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    HEAD_TOO_LARGE = "head_too_large"
    REQUEST_INCOMPLETE = "request_incomplete"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"


TOLD_MOST_S = 60.0
"""SDKs ignore a longer ``retry-after``; the true figure is in the body."""


class Refusal(Exception):
    """A request that is not served, and what its caller should know.

    Args:
        reason: the machine-readable reason.
        message: one sentence for a person.
        retry_after_s: seconds until coming back makes sense; None where it never will.
        param: the request field that is at fault, where one is.
        for_own, aside_s: it had to wait for others of its own key, and for how long.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_after_s: float | None = None,
        param: str | None = None,
        for_own: bool = False,
        aside_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.param = param
        self.for_own = for_own
        self.aside_s = aside_s

    @property
    def told_s(self) -> float | None:
        """As many of these seconds as its headers say."""
        return None if self.retry_after_s is None else min(max(self.retry_after_s, 0.001), TOLD_MOST_S)
