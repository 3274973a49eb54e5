"""What each number of slots gave: good answers a second, as far as that is remembered.

``limits`` takes slots away when first tokens are late, which is right where it makes them earlier by more than it
costs. Where the time to a first token hardly depends on the slots (a busy front before the engine, say) fewer of them
only serve fewer. Nobody can tell beforehand; so it is tried, and what was seen decides.

Numbers of slots that are near to each other count as one (``BAND``). Only what was seen while the slots were all in
use and somebody waited says what they can give. Pure.
"""

from __future__ import annotations

from math import log

BAND = 1.2
"""Numbers of slots within this factor are alike."""
MEMORY = 0.9
"""How much of what was seen a second ago still counts, of the seconds in which that number was in use."""
KNOWN_AFTER_S = 3.0
"""Seconds of use that say something."""
FRESH_S = 60.0
"""For how long what was seen is believed: loads change."""


class Yields:
    """By number of slots, how many good answers a second there were."""

    __slots__ = ("_bands", "_now_s")

    def __init__(self) -> None:
        self._bands: dict[int, _Band] = {}
        self._now_s = 0.0

    def pass_by(self, seconds: float) -> None:
        """So much time has passed."""
        self._now_s += seconds

    def note(self, slots: int, good: float, seconds: float) -> None:
        """So many slots were in use for the last ``seconds``, and so many good answers began."""
        band = self._bands.setdefault(_band(slots), _Band())
        if self._now_s - band.at_s > FRESH_S:
            band.good = band.seconds = band.slots = band.seen_s = 0.0
        kept = MEMORY**seconds
        band.good = band.good * kept + good
        band.slots = band.slots * kept + slots * seconds
        band.seconds = band.seconds * kept + seconds
        band.seen_s += seconds
        band.at_s = self._now_s

    def of(self, slots: float) -> float | None:
        """Good answers a second with about so many slots; None where that isn't known."""
        band = self._bands.get(_band(slots))
        return band.rate if band is not None and self._is_known(band) else None

    def best_above(self, slots: float) -> tuple[float, float] | None:
        """Of those known to be more than about so many: how many gave most, and how much that was."""
        here = _band(slots)
        above = [band for number, band in self._bands.items() if number > here and self._is_known(band)]
        if not above:
            return None
        best = max(above, key=lambda band: band.rate)
        return best.slots / best.seconds, best.rate

    def _is_known(self, band: _Band) -> bool:
        return band.seen_s >= KNOWN_AFTER_S and self._now_s - band.at_s <= FRESH_S


class _Band:
    """Sums over the seconds of use, older ones counted less; how many seconds that were, and when the last was."""

    __slots__ = ("at_s", "good", "seconds", "seen_s", "slots")

    def __init__(self) -> None:
        self.good = self.seconds = self.slots = self.seen_s = self.at_s = 0.0

    @property
    def rate(self) -> float:
        return self.good / self.seconds


def _band(slots: float) -> int:
    return round(log(max(slots, 1.0)) / log(BAND))
