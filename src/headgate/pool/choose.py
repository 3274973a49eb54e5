"""Which engine serves the next request.

Separate because it is one comparison with no state: whoever asks keeps the count of turns. It ends at a name;
slots are the gate's part, and so is the question whether anybody may go at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that could serve: its slots, the weight in flight there, the turn it last was chosen at."""

    name: str
    slots: int
    active: int
    last_turn: int = 0

    def has_room(self, weight: int) -> bool:
        """Whether so much weight fits; what is heavier than the whole engine fits when it is empty."""
        return self.slots > 0 and self.active + min(weight, self.slots) <= self.slots


def choose(candidates: Sequence[Candidate], weight: int = 1) -> str | None:
    """The engine with room that is least loaded for its size; among equals, the one not chosen for longest.

    None where the weight fits nowhere as one piece, even if the free slots of all engines together would hold
    it.
    """
    fitting = [candidate for candidate in candidates if candidate.has_room(weight)]
    if not fitting:
        return None
    return min(fitting, key=lambda candidate: (candidate.active / candidate.slots, candidate.last_turn)).name
