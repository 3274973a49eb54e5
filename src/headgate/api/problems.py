"""The HTTP status of each reason, and a refusal as a whole HTTP answer. The only place where either is decided."""

from __future__ import annotations

import math

from headgate import openai
from headgate.errors import Reason, Refusal
from headgate.openai import Dialect

STATUS: dict[Reason, int] = {
    Reason.SLOTS_BUSY: 429,
    Reason.RATE_LIMITED: 429,
    Reason.QUEUE_FULL: 429,
    Reason.WAIT_TOO_LONG: 429,
    Reason.SHED: 429,
    Reason.QUEUE_TIMEOUT: 503,
    Reason.ENGINE_UNAVAILABLE: 503,
    Reason.DRAINING: 503,
    Reason.TOO_MANY_CONNECTIONS: 503,
    Reason.ENGINE_FAILED: 502,
    Reason.REQUEST_TIMEOUT: 504,
    Reason.INVALID_REQUEST: 400,
    Reason.UNAUTHORIZED: 401,
    Reason.FORBIDDEN: 403,
    Reason.NOT_FOUND: 404,
    Reason.TOO_LARGE: 413,
    Reason.HEAD_TOO_LARGE: 431,
    Reason.REQUEST_INCOMPLETE: 408,
    Reason.UNSUPPORTED_MEDIA_TYPE: 415,
}
"""429: there is capacity, and it is contended. 503: there is none now, or the promised wait is over."""

HOPELESS = frozenset((Reason.ENGINE_FAILED, Reason.REQUEST_TIMEOUT))
"""SDKs send every 5xx twice more by themselves. A request that two engines died of would see six of them die, and one
that took too long would take so long three times. These say ``x-should-retry: false``, which the SDKs heed."""

Headers = list[tuple[bytes, bytes]]


def answer(refusal: Refusal, dialect: Dialect = Dialect.OPENAI) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal. Every 429 and 503 says when to come back."""
    status = STATUS[refusal.reason]
    if status in (429, 503) and refusal.retry_after_s is None:
        refusal.retry_after_s = 1.0
    body = openai.error_body(refusal, dialect)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-headgate-reason", refusal.reason.encode()),
    ]
    if (seconds := refusal.told_s) is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(seconds)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)))
    if refusal.reason in HOPELESS:
        headers.append((b"x-should-retry", b"false"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, headers, body
