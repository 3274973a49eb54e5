"""The ways in which the simulated engine can be made to fail, and which request is hit by which.

A fault is a JSON object, given with ``--fault`` (several times) or at run time with ``POST
/simulator/faults`` (one object or a list). ``GET /simulator/faults`` shows those still to come, ``DELETE``
clears them and ends a hang. ``KINDS`` says what there is.

``times`` says how many requests are hit (1; null is all), ``after_requests`` how many are let through first,
``path`` which path only, ``text`` only those with this text in their body. ``crash``, ``hang`` and ``hang_hard``
with neither ``after_requests`` nor ``after_events`` happen at once; the others hit generating requests. In a whole
(not streamed) reply ``cut``, ``reset`` and ``garbage`` come after half of the body, ``stall`` before it,
``error_first`` and ``error_event`` are an error reply.

Pure: what a fault does to a connection is in ``wire``, to the process in ``server``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from headgate.simulator.constants import MOST

Kind = Literal[
    "crash",
    "hang",
    "hang_hard",
    "slow_start",
    "refuse_to_start",
    "error",
    "error_first",
    "error_event",
    "cut",
    "reset",
    "garbage",
    "garbage_head",
    "slow_head",
    "stall",
    "giant",
    "dribble",
    "crlf",
    "comment",
]
KINDS: dict[Kind, str] = {
    "crash": "the process dies, by SIGKILL or with `exit_code` (0: vLLM's way when its core dies)",
    "hang": "no progress for `seconds` (for ever without), while `/health` and all else answer",
    "hang_hard": "nothing answers for `seconds` (for ever without), connections stay open",
    "slow_start": "loading takes `seconds` longer (only with `--fault`)",
    "refuse_to_start": "exit 1 with `message` after loading began (only with `--fault`)",
    "error": "an error reply with `status` (500)",
    "error_first": "status 200, and the first event is an error",
    "error_event": "an error event after `after_events` events",
    "cut": "the connection is closed after `after_events` events, in the middle of the body",
    "reset": "the same by RST",
    "garbage": "bytes that are no HTTP after `after_events` events, then the connection is closed",
    "garbage_head": "bytes that are no HTTP instead of a response head, then the connection is closed",
    "slow_head": "the response head comes `seconds` late",
    "stall": "nothing for `seconds` after `after_events` events, then on as before",
    "giant": "one event with `bytes` (1 MiB) of text after `after_events` events",
    "dribble": "every event comes in pieces of at most `bytes` (3) bytes",
    "crlf": "lines end in CRLF",
    "comment": "a comment line `: keep-alive` before every event",
}
"""What happens."""

_AT_ONCE = frozenset({"crash", "hang", "hang_hard"})
_STARTING = frozenset({"slow_start", "refuse_to_start"})


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One fault; ``KINDS`` says which there are. ``seconds`` are seconds, ``bytes`` bytes."""

    kind: Kind
    after_events: Annotated[int, msgspec.Meta(ge=0)] | None = None
    after_requests: Annotated[int, msgspec.Meta(ge=0)] | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] | None = 1
    seconds: Annotated[float, msgspec.Meta(ge=0, le=MOST)] | None = None
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 500
    message: str = "a fault was asked for"
    bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    path: str | None = None
    text: str | None = None

    @property
    def at_once(self) -> bool:
        """It hits the process now, and not a request."""
        return self.kind in _AT_ONCE and self.after_events is None and self.after_requests is None

    @property
    def at_start(self) -> bool:
        """It hits the start."""
        return self.kind in _STARTING


def parse(raw: bytes | str) -> list[Fault]:
    """Faults from JSON, one or a list. Raises ValueError with what is wrong."""
    try:
        found = msgspec.json.decode(raw, type=list[Fault] | Fault)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a fault: {error}") from error
    return found if isinstance(found, list) else [found]


class Faults:
    """The faults still to come, in the order in which they were asked for."""

    def __init__(self, faults: list[Fault]) -> None:
        self._waiting = list(faults)

    def add(self, faults: list[Fault]) -> None:
        """More of them."""
        self._waiting.extend(faults)

    def take_at_once(self) -> list[Fault]:
        """Those that happen at once, which are then no longer to come."""
        now = [fault for fault in self._waiting if fault.at_once]
        self._waiting = [fault for fault in self._waiting if not fault.at_once]
        return now

    def clear(self) -> None:
        """None any more."""
        self._waiting.clear()

    def listed(self) -> list[Fault]:
        """Those still to come."""
        return list(self._waiting)

    def for_request(self, path: str, body: bytes = b"") -> list[Fault]:
        """The faults that hit a request which has just arrived; counts it."""
        hit = []
        for fault in self._waiting:
            if fault.path is not None and fault.path != path:
                continue
            if fault.text is not None and fault.text.encode() not in body:
                continue
            if fault.after_requests:
                fault.after_requests -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            hit.append(fault)
        if hit:
            self._waiting = [fault for fault in self._waiting if fault.times is None or fault.times > 0]
        return hit
