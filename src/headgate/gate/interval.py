"""How many tokens an engine should put into one event: vLLM's ``stream_interval``, found while it runs.

An event costs vLLM's front as much with one token as with four: to take it from the engine, to write it out, to send
it. Where many stream at once that front is what is short. It shows: whoever reads its own output too late finds several
tokens there, and an event has more than one. Then fewer, larger events are answers that the same front gives to others,
as long as they come within the objective for the time between events; the first token is an event by itself in any
case. So they are asked for while somebody waits for a slot, and not while there is room for everybody.

Pure: a reading comes in, a number goes out.
"""

from __future__ import annotations

from typing import NamedTuple

JOINED = 1.2
"""Tokens in an event, in the mean, from which on an engine's front is behind."""
KNOWN = 200.0
"""Events of which that must be known."""
MEMORY = 0.8
"""How much of what was seen a second ago still counts."""
SHARE = 0.75
"""Of the objective for the time between two events, what is used: tokens may come slower than now."""
ITL_S = 0.1
"""Where there is no such objective."""
OBEYED = 1.25
"""Times the events that there should be, as many as there may be of an engine that does as it is asked: an older vLLM
passes over a field that it doesn't know."""
CALM_S = 10.0
"""For how long nobody may have waited for it to end; twice as long each time that it begins again soon, ..."""
CALM_MOST_S = 160.0
"""... up to this."""


class Streams(NamedTuple):
    """What an engine's streams have told that have ended, ever.

    Attributes:
        tokens, events: of those for which nothing was asked.
        asked_events, expected: events of those that were to have larger ones, and how many that should have been.
    """

    tokens: float = 0.0
    events: float = 0.0
    asked_events: float = 0.0
    expected: float = 0.0

    def and_one(self, tokens: int, events: int, *, per_event: int, sequences: int) -> Streams:
        """With one more, of so many sequences.

        Each begins with an event for its role and one for its first token; its last one is half full in the mean.
        """
        if per_event == 1:
            return self._replace(tokens=self.tokens + tokens, events=self.events + events)
        expected = 2.5 * sequences + tokens / per_event
        return self._replace(asked_events=self.asked_events + events, expected=self.expected + expected)

    def since(self, before: Streams) -> Streams:
        """What has come to it."""
        return Streams(*(now - then for now, then in zip(self, before, strict=True)))


NO_STREAMS = Streams()


class Told(NamedTuple):
    """What was seen of an engine since the reading before.

    Attributes:
        seconds: how long that was.
        wanted: whether somebody waits for a slot.
        streams: those that ended.
        gaps_s, gaps: sum and number of the times between two tokens of a sequence, by the engine's own account.
    """

    seconds: float
    wanted: bool
    streams: Streams
    gaps_s: float
    gaps: float


class Interval:
    """The number for one engine.

    Args:
        most: never more than this.
        itl_s: the objective for the time between two events; None: there is none.

    Attributes:
        tokens: so many are to be in one event; 1: as they come.
    """

    def __init__(self, most: int, *, itl_s: float | None) -> None:
        self.tokens = 1
        self._most = most
        self._itl_s = itl_s or ITL_S
        self._tokens = self._events = self._gaps_s = self._gaps = 0.0
        self._asked_events = self._expected = 0.0
        self._is_obeyed = True
        self._is_short = False
        self._calm_s = 0.0
        self._calm_for_s = CALM_S
        self._over_s = CALM_MOST_S  # for how long it has been so

    def read(self, told: Told) -> int:
        """Take a reading into account; the number from now on."""
        kept = MEMORY**told.seconds
        self._tokens = self._tokens * kept + told.streams.tokens
        self._events = self._events * kept + told.streams.events
        self._asked_events += told.streams.asked_events
        self._expected += told.streams.expected
        if self._asked_events >= KNOWN and self._asked_events > OBEYED * self._expected:
            self._is_obeyed = False
        self._gaps_s = self._gaps_s * kept + told.gaps_s
        self._gaps = self._gaps * kept + told.gaps
        self._calm_s = 0.0 if told.wanted else self._calm_s + told.seconds
        if self._is_short:
            self._is_short = self._calm_s < self._calm_for_s
            self._over_s = 0.0
        elif told.wanted and self._events >= KNOWN and self._tokens >= JOINED * self._events:
            self._is_short = True
            soon = self._over_s < self._calm_for_s
            self._calm_for_s = min(2 * self._calm_for_s, CALM_MOST_S) if soon else CALM_S
        else:
            self._over_s += told.seconds
        self.tokens = self._within_objective() if self._is_short and self._is_obeyed else 1
        return self.tokens

    def _within_objective(self) -> int:
        if self._gaps_s <= 0:
            return 1
        return max(1, int(min(self._most, SHARE * self._itl_s * self._gaps / self._gaps_s)))
