"""How many tokens an engine should put into one event: vLLM's ``stream_interval``, found while it runs.

An event takes vLLM's front the same steps with one token as with four: to take it from the engine, to write it out, to
send it. Where many stream at once that front is what is short. It shows: whoever reads its own output too late finds
several tokens there, and an event has more than one. Then fewer, larger events are answers that the same front gives to
others, as long as they come within the objective for the time between events; the first token is an event by itself in
any case. So they are asked for while somebody waits for a slot, and not while there is room for everybody.

Pure: a reading comes in, a number goes out.
"""

from __future__ import annotations

from typing import NamedTuple

JOINED = 1.2
"""Tokens in an event, in the mean, from which on an engine's front is behind, ..."""
JOINED_S = 3.0
"""... if it is so for so long: everybody stumbles now and then."""
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
REFUSED = 5.0
"""Refusals after which an engine that has never answered is not asked again."""
MOST = 1e9
"""Tokens that an answer can have: who says more says nothing."""
CALM_S = 10.0
"""For how long nobody may have waited for it to end, ..."""
STAY_S = 60.0
"""... and after how long it ends at the latest, to see whether it is needed still. Each twice as long where it had to
begin again within this time, ..."""
AGAIN_MOST = 4
"""... and so many times over."""


class Streams(NamedTuple):
    """What an engine's streams have told that have ended, ever.

    Attributes:
        tokens, events: of those for which nothing was asked.
        asked_events, expected: events of those that were to have larger ones, and how many that should have been.
        refused: requests for larger ones that the engine called wrong.
    """

    tokens: float = 0.0
    events: float = 0.0
    asked_events: float = 0.0
    expected: float = 0.0
    refused: float = 0.0

    def and_one(self, tokens: int, events: int, *, sequences: int) -> Streams:
        """With one more for which nothing was asked. The token that ends a sequence may have no event."""
        told = min(tokens, MOST) - sequences
        return self._replace(tokens=self.tokens + max(told, 0.0), events=self.events + events)

    def and_one_asked(self, tokens: int, events: int, *, per_event: int, sequences: int) -> Streams:
        """With one more that was to have so many tokens in an event.

        Each sequence begins with an event for its role and one for its first token; its last is half full in the mean.
        """
        expected = 2.5 * sequences + min(tokens, MOST) / per_event
        return self._replace(asked_events=self.asked_events + events, expected=self.expected + expected)

    def and_one_refused(self) -> Streams:
        """With one more request for larger events that the engine called wrong, for whatever reason."""
        return self._replace(refused=self.refused + 1)

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
        is_obeyed: whether the engine does as it is asked; None while that isn't known.
    """

    def __init__(self, most: int, *, itl_s: float | None) -> None:
        self.tokens = 1
        self.is_obeyed: bool | None = None
        self._most = most
        self._itl_s = itl_s or ITL_S
        self._tokens = self._events = self._gaps_s = self._gaps = 0.0
        self._ever = NO_STREAMS
        self._is_short = False
        self._joined_s = 0.0
        self._calm_s = 0.0
        self._so_s = STAY_S  # for how long it has been as it is
        self._again = 0

    def read(self, told: Told) -> int:
        """Take a reading into account; the number from now on."""
        kept = MEMORY**told.seconds
        self._tokens = self._tokens * kept + told.streams.tokens
        self._events = self._events * kept + told.streams.events
        self._gaps_s = self._gaps_s * kept + told.gaps_s
        self._gaps = self._gaps * kept + told.gaps
        self._see_whether_it_is_obeyed(told.streams)
        self._calm_s = 0.0 if told.wanted else self._calm_s + told.seconds
        self._so_s += told.seconds
        is_joined = self._events >= KNOWN and self._tokens >= JOINED * self._events
        self._joined_s = self._joined_s + told.seconds if is_joined and told.wanted and not self._is_short else 0.0
        times = 2.0**self._again
        if self._is_short and (self._calm_s >= CALM_S * times or self._so_s >= STAY_S * times):
            self._is_short, self._so_s = False, 0.0
            self._tokens = self._events = 0.0  # what was before says nothing of now
        elif self._joined_s >= JOINED_S:
            self._again = min(self._again + 1, AGAIN_MOST) if self._so_s < STAY_S else 0
            self._is_short, self._so_s, self._joined_s = True, 0.0, 0.0
        self.tokens = self._within_objective() if self._is_short and self.is_obeyed is not False else 1
        return self.tokens

    def _see_whether_it_is_obeyed(self, streams: Streams) -> None:
        ever = self._ever = Streams(*(before + more for before, more in zip(self._ever, streams, strict=True)))
        if ever.asked_events >= KNOWN:
            self.is_obeyed = ever.asked_events <= OBEYED * ever.expected
        elif ever.refused >= REFUSED and not ever.asked_events:
            self.is_obeyed = False

    def _within_objective(self) -> int:
        if self._gaps_s <= 0:
            return 1
        return max(1, int(min(self._most, SHARE * self._itl_s * self._gaps / self._gaps_s)))
