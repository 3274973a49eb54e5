"""The states of an engine and the only steps between them.

One table, so that the code, the tests and the picture in the docs cannot disagree. It is separate from the
supervisor because it holds with no process and no clock. It ends at naming the next state: what is done on
the way is the supervisor's part.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class State(StrEnum):
    """Where an engine is in its life. Only a ready engine has slots."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"
    BACKOFF = "backoff"
    WEDGED = "wedged"


class Event(Enum):
    """What happens to an engine, or is asked of it."""

    START = "start"
    LISTED = "lists a model"
    LOST = "unreachable"
    SLEEP = "sleep"
    WAKE = "wake"
    DRAIN = "drain"
    STALLED = "no progress"
    STOP = "stop"
    EXITED = "exited"
    GAVE_UP = "gave up"


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a fault in the supervisor, never in the engine."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"an engine that is {state} cannot take {event.name}")
        self.state = state
        self.event = event


TABLE: dict[tuple[State, Event], State] = {
    (State.STOPPED, Event.START): State.STARTING,
    (State.STARTING, Event.LISTED): State.READY,
    (State.STARTING, Event.EXITED): State.BACKOFF,
    (State.STARTING, Event.STALLED): State.WEDGED,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.READY, Event.LOST): State.STARTING,
    (State.READY, Event.SLEEP): State.ASLEEP,
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.READY, Event.STALLED): State.WEDGED,
    (State.READY, Event.EXITED): State.BACKOFF,
    (State.READY, Event.STOP): State.STOPPING,
    (State.ASLEEP, Event.WAKE): State.READY,
    (State.ASLEEP, Event.DRAIN): State.DRAINING,
    (State.ASLEEP, Event.EXITED): State.BACKOFF,
    (State.ASLEEP, Event.STOP): State.STOPPING,
    # An engine that dies while it drains was leaving anyway: nobody waits for it, so it is not brought back.
    (State.DRAINING, Event.EXITED): State.STOPPED,
    (State.DRAINING, Event.STOP): State.STOPPING,
    (State.WEDGED, Event.LOST): State.STARTING,
    (State.WEDGED, Event.EXITED): State.BACKOFF,
    (State.WEDGED, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.EXITED): State.STOPPED,
    (State.BACKOFF, Event.START): State.STARTING,
    (State.BACKOFF, Event.GAVE_UP): State.FAILED,
    (State.BACKOFF, Event.STOP): State.STOPPED,
    (State.FAILED, Event.START): State.STARTING,
    (State.FAILED, Event.STOP): State.STOPPED,
}


def advance(state: State, event: Event) -> State:
    """The state after an event.

    Raises:
        IllegalTransition: the table has no such step.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None


def to_mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.STOPPED}"]
    lines += [f"    {state} --> {after}: {event.value}" for (state, event), after in TABLE.items()]
    return "\n".join(lines) + "\n"
