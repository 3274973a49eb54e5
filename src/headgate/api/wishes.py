"""What a caller may wish for its place in the line, by headers.

Who says who its user is, or how urgent it is, is believed only if it has a key or comes from a trusted proxy: from
anybody else it would be a way past the others. A deadline and the wish to be told one's place harm nobody.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from headgate.api.request import Headers
from headgate.errors import Reason, Refusal

HEADERS = frozenset(
    (b"x-headgate-deadline-ms", b"x-headgate-wait", b"x-headgate-priority", b"x-headgate-user", b"x-openwebui-user-id")
)
RANKS = {"high": -1, "normal": 0, "low": 1}
RANK_MOST = 10
USER_MOST = 128
DEADLINE_MOST_MS = 86_400_000


class Wishes(NamedTuple):
    """``rank``: 0 normal, below 0 sooner; ``deadline_s`` to a slot; ``tells_place``: while it waits."""

    rank: int = 0
    user: str = ""
    deadline_s: float = math.inf
    tells_place: bool = False


NONE = Wishes()


def read(headers: Headers, *, believed: bool) -> Wishes:
    """The wishes of a request.

    Args:
        believed: whether its user and its priority count.

    Raises:
        Refusal: ``invalid_request``, where a value can't be understood.
    """
    rank, user, deadline_s, tells_place = NONE
    for name, value in headers:
        if name not in HEADERS:
            continue
        if name == b"x-headgate-deadline-ms":
            deadline_s = _deadline_s(value)
        elif name == b"x-headgate-wait":
            tells_place = value.strip().lower() == b"events"
        elif not believed:
            continue
        elif name == b"x-headgate-priority":
            rank = _rank(value)
        elif name == b"x-headgate-user" or (name == b"x-openwebui-user-id" and not user):
            user = value[:USER_MOST].decode("latin-1")
    return Wishes(rank, user, deadline_s, tells_place)


def _rank(value: bytes) -> int:
    text = value.strip().lower().decode("latin-1")
    if text in RANKS:
        return RANKS[text]
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 3 and abs(int(text)) <= RANK_MOST:
        return int(text)
    raise Refusal(
        Reason.INVALID_REQUEST,
        f"`x-headgate-priority` must be high, normal, low, or a whole number from -{RANK_MOST} (first) to {RANK_MOST}.",
    )


def _deadline_s(value: bytes) -> float:
    digits = value.strip()
    if digits.isdigit() and len(digits) <= 8 and 0 < int(digits) <= DEADLINE_MOST_MS:
        return int(digits) / 1000
    raise Refusal(
        Reason.INVALID_REQUEST,
        f"`x-headgate-deadline-ms` must be a whole number of milliseconds, from 1 to {DEADLINE_MOST_MS}.",
    )
