"""What is known of one request: what was read of it before anything was decided, and what has become of it so far.

Apart from the flow because others look at it too: the API makes a ``Call``, the engines give a ``Route``, the picture
shows an ``Asker``. No rule is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from headgate.gate import Lease
from headgate.keys import Key
from headgate.quotas import Taken
from headgate.relay.reply import Plan, Reply
from headgate.relay.upstream import Upstream
from headgate.shapes import Asked
from headgate.telemetry.slo import Objectives
from headgate.telemetry.tracecontext import TraceContext

if TYPE_CHECKING:
    from headgate.telemetry.tracing import Trace


def priority(rank: int) -> str:
    """The word for a rank, for labels."""
    return "normal" if not rank else "high" if rank < 0 else "low"


class Call(msgspec.Struct):
    """One request, read and checked, before anything was decided about it.

    Attributes:
        route: its template, for labels.
        target: path and query at the engine.
        body: what the engine gets, and ``content_type`` its type.
        asked: what was read of it.
        plan: what the way back depends on.
        request_id: the caller's id, or ours where it gave none.
        key: the name of the caller's key, or ``anonymous``.
        arrived: by the flow's clock.
        gated: whether it takes slots.
        can_ask_usage: whether this API knows ``stream_options``.
        user: which of the key's users, as far as that is known.
        rank: its priority: 0 normal, below 0 sooner, above 0 later.
        deadline_s: how long it may wait for a slot before it is of no use.
        tells_place: the client wants to be told its place in the line while it waits.
        rights: what the keys file says of the key; None: it isn't in there, and may do everything.
        told: headers for its answer, whatever that will be; how it stands with its limits.
        trace: the caller's trace, where it told one.
        client: the client's address, for the log; empty where it isn't kept.
    """

    route: str
    target: bytes
    body: bytes
    content_type: bytes
    asked: Asked
    plan: Plan
    request_id: str
    key: str
    arrived: float
    gated: bool = True
    can_ask_usage: bool = False
    user: str = ""
    rank: int = 0
    deadline_s: float = math.inf
    tells_place: bool = False
    rights: Key | None = None
    told: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    trace: TraceContext | None = None
    client: str = ""

    @property
    def prompt_bytes(self) -> int:
        """As many bytes of its body as its tokens can be told by."""
        return len(self.body) - self.asked.media_bytes


@dataclass(slots=True)
class Route:
    """How an engine is spoken to: its connections, the prefix of its paths, the header lines that it wants.

    ``per_event`` is how many tokens it is to put into one event, which changes while it runs; ``obeys``, whether it is
    known to do so.
    """

    upstream: Upstream
    prefix: bytes
    headers: bytes = field(repr=False)
    can_include_usage: bool
    per_event: int = 1
    obeys: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. ``side_calls`` is how many calls without a slot may run at once, ``slo`` what is good.

    ``queue_max`` is how many may wait, ``preempt`` whether a less urgent request may be put back in line.
    """

    request_timeout_s: float
    status_hold_s: float
    side_calls: int = 64
    queue_max: int = 64
    preempt: bool = False
    slo: Objectives = field(default_factory=Objectives)


class Asker(msgspec.Struct):
    """Who waits in the line or holds slots, as far as others are shown it. The gate keeps it with the ticket.

    ``tells_place``: it is told its place while it waits.
    """

    key: str
    model: str
    streamed: bool
    max_tokens: int | None
    reply: Reply
    tells_place: bool = False


@dataclass(slots=True, eq=False)
class Life:
    """What has happened to a request so far. ``engine`` and ``engine_request_id`` are those of its last try.

    ``model`` is a label: a served name, or ``other``. ``booked``: it came back as it was told. ``at_engine``: it holds
    the slots of ``lease``, which is that of its last try otherwise. ``for_own``: it had to wait for others of its own
    key.
    """

    model: str
    engine: str = ""
    engine_request_id: str = ""
    queued_since: float | None = None
    failures: int = 0
    lease: Lease | None = None
    taken: Taken | None = None
    trace: Trace | None = None
    booked: bool = False
    at_engine: bool = False
    for_own: bool = False

    @property
    def example(self) -> tuple[str, str]:
        """The label of its examples: its trace, or an id of ours that the log's line has too."""
        if self.trace is not None and self.trace.sampled:
            return "trace_id", self.trace.trace_id
        return "request", self.engine_request_id
