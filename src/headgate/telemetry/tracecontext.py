"""Which trace a request belongs to, as its caller says in W3C's headers: read, checked, written again.

Pure, and apart from ``tracing`` because it is needed without it: a caller's trace is passed on to the engine whether or
not the gateway takes part. What is passed on has been checked to the letter, since it becomes a header of our own.
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

STATE_BYTES = 512
"""A longer ``tracestate`` is left out whole: the standard lets us, and part of one may mean something else."""
STATE_MEMBERS = 32

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]{0,64})?\Z")
_KEY = rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(_KEY + rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]\Z")


class TraceContext(msgspec.Struct, frozen=True):
    """A valid ``traceparent``, and the ``tracestate`` beside it, which may be empty."""

    parent: bytes
    state: bytes = b""

    @property
    def trace_id(self) -> str:
        return self.parent[3:35].decode()

    @property
    def span_id(self) -> str:
        return self.parent[36:52].decode()

    @property
    def flags(self) -> int:
        return int(self.parent[53:55], 16)

    def header_lines(self) -> bytes:
        """As they stand in the head of a request to the engine."""
        lines = b"traceparent: %b\r\n" % self.parent
        return lines + b"tracestate: %b\r\n" % self.state if self.state else lines


def read(parents: Sequence[bytes], states: Sequence[bytes]) -> TraceContext | None:
    """The context that these headers tell; None where there is none, or none that can be trusted.

    Args:
        parents: the values of every ``traceparent`` header: more than one is as good as none.
        states: those of every ``tracestate``, in their order. One that is wrong is left out.
    """
    if len(parents) != 1:
        return None
    parent = parents[0].strip(b" \t")
    match = _PARENT.match(parent)
    if match is None:
        return None
    version, trace, span, _, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None) or not trace.strip(b"0") or not span.strip(b"0"):
        return None
    return TraceContext(parent, _state(states))


def _state(states: Sequence[bytes]) -> bytes:
    state = b",".join(states)
    if len(state) > STATE_BYTES:
        return b""
    members = [member for part in state.split(b",") if (member := part.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > STATE_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.match, members)):
        return b""
    return b",".join(members)
