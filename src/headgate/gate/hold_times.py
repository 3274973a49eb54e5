"""How long slots are held, learned from those that have ended, and how soon first tokens come.

A mean, and what an expected answer makes of it, so that who waits behind a batch is told another time than who waits
behind a chat; how much of it is a matter of chance; and what the tempo of tokens says before anybody has ended. All
means forget as those end that they are of, but the first tokens', which forget in time. What is told from it is
``forecast``'s.
"""

from __future__ import annotations

from math import exp, inf, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headgate.gate.entries import Ticket

SLOT_S = 1.0  # before anything was measured: a slot is taken to come free each second
LEAST_S = 0.001
SURE = 32  # completions before a forecast may cost somebody the place, and before they alone are gone by
FIRSTS = 20  # first tokens that are remembered at least,
FIRSTS_S = 10.0  # and for so long: where many are begun at once they come in waves, slow ones after quick ones
FIRST_SPREAD = 2.4  # standard deviations over the mean: as far as three mean deviations of what is evenly scattered
MEMORY = 64  # slots' worth of completions that the means remember
LEAST_OF_HOLD, MOST_OF_HOLD = 0.5, 16.0  # what the tempo of tokens may make of the mean hold, times
LEAST_LENGTH, MOST_LENGTH = 1 / 16, 16.0  # what an expected answer may make of it, times
FURTHEST = sqrt(MEMORY)  # standard deviations: no further from the mean can one be of those that are remembered
LONG = 1.5  # mean deviations over the mean
_RANDOM = 0.368  # deviation over mean from which an end may come at any time: half of what is exponential, 1/e


class HoldTimes:
    """How long slots are held. Every ``now`` is real time in seconds.

    Attributes:
        mean_s: of those that have ended; 0 before anything was measured.
        rest_s: how far they are from what was to be expected of each, in the mean.
    """

    __slots__ = (
        *("_answer", "_answer_s", "_answer_var", "_beyond_s2", "_first_at", "_firsts", "_firsts_s", "_firsts_s2"),
        *("_mass", "_off_s", "_served", "_slope_s", "_token_s", "_token_then_s", "mean_s", "rest_s"),
    )

    def __init__(self) -> None:
        self.mean_s = self.rest_s = 0.0
        self._off_s = self._beyond_s2 = 0.0
        self._answer = self._answer_var = self._answer_s = self._slope_s = 0.0
        self._mass = self._served = 0
        self._first_at = -inf
        self._firsts = self._firsts_s = self._firsts_s2 = 0.0
        self._token_s = self._token_then_s = 0.0

    def learn(self, held_s: float, weight: int, answer: float = 1.0) -> None:
        """``weight`` slots came free after ``held_s``: a running mean first, exponentially weighted later.

        Args:
            answer: how long each of its answers was expected to be, in tokens.
        """
        self._served += 1
        mass = self._mass + weight
        self._mass = mass = mass if mass < MEMORY else max(weight, MEMORY)
        gain = weight / mass
        kept = 1.0 - gain
        off_s, off = held_s - self.mean_s, answer - self._answer
        expected_off_s = self._slope_s * self._near(off)
        self.mean_s += off_s * gain
        self._off_s += (abs(off_s) - self._off_s) * gain
        self.rest_s += (abs(off_s - expected_off_s) * kept - self.rest_s) * gain
        beyond_s = off_s - expected_off_s if expected_off_s > 0 else off_s
        self._beyond_s2 *= kept
        if beyond_s > 0:
            self._beyond_s2 += beyond_s * beyond_s * kept * gain
        if self._token_s:
            then_s = self._token_then_s or self._token_s
            self._token_then_s = then_s + (self._token_s - then_s) * gain
        if off or self._answer_var:  # least squares of the times over the answers
            self._answer += off * gain
            self._answer_var = (self._answer_var + off * off * gain) * kept
            self._answer_s = (self._answer_s + off * off_s * gain) * kept
            can_tell = self.is_sure and self.mean_s > LEAST_S and self._answer_s > 0 and self._answer_var > 0
            self._slope_s = self._answer_s / self._answer_var if can_tell else 0.0

    def tempo(self, token_s: float) -> None:
        """The tokens of a sequence come so far apart now; seconds, more than 0.

        How long slots are held is known from those that have ended, so of the load that was. Where it changes, the
        tokens tell at once by how much: an engine that computes ten times as much at once is slower with each.
        """
        self._token_s = token_s

    def learn_first(self, now: float, first_s: float) -> float:
        """The engine gave a first token ``first_s`` after the grant; how long that takes, all but the slowest.

        Mean and deviation, as TCP keeps its round-trip time (Jacobson, 1988), but of what came in the last seconds too,
        and not of the last few alone: those are all of one wave, and the next is a slower one.
        """
        kept = max(exp((self._first_at - now) / FIRSTS_S), 1 - 1 / FIRSTS)
        self._first_at = now
        self._firsts = self._firsts * kept + 1
        self._firsts_s = self._firsts_s * kept + first_s
        self._firsts_s2 = self._firsts_s2 * kept + first_s * first_s
        mean_s = self._firsts_s / self._firsts
        if self._firsts < 2:  # one says nothing of how far they are apart
            return 2 * mean_s
        return mean_s + FIRST_SPREAD * sqrt(max(self._firsts_s2 / self._firsts - mean_s * mean_s, 0.0))

    @property
    def is_sure(self) -> bool:
        """Whether enough was seen to refuse somebody for it."""
        return self._served >= SURE

    @property
    def long_s(self) -> float:
        """How long a long one holds: mean and a deviation and a half. Of evenly spread times nearly the longest."""
        return self.mean_s + LONG * self._off_s

    @property
    def chance(self) -> float:
        """How much an end is a matter of chance.

        0 where it is known how long each holds its slots, 1 where an end may come at any time.
        """
        return min(self.rest_s / (_RANDOM * self.mean_s), 1.0) if self.mean_s > LEAST_S else 1.0

    def length(self, answer: float) -> float:
        """How long one whose answers are expected to be so long holds its slots, times the mean."""
        if not self._slope_s:
            return 1.0
        length = 1.0 + self._slope_s * self._near(answer - self._answer) / self.mean_s
        return min(max(length, LEAST_LENGTH), MOST_LENGTH)

    def _near(self, off: float) -> float:
        """How far an answer is from the mean, for what it says; in tokens."""
        furthest = FURTHEST * sqrt(self._answer_var)
        return min(max(off, -furthest), furthest)

    def now_s(self, holders: Iterable[Ticket]) -> float:
        """The mean as tokens come now; 0 where nothing is known.

        Until enough have ended to be sure of, what those that run are expected to take counts for the rest of them: the
        first to end may be a client's probe for one token.
        """
        if not self._token_s:
            return self.mean_s
        slower = self._token_s / (self._token_then_s or self._token_s)
        held_s = self.mean_s * min(max(slower, LEAST_OF_HOLD), MOST_OF_HOLD)
        if self.is_sure:
            return held_s
        answers = [ticket.claim.answer for ticket in holders]
        if not answers:
            return held_s
        first_s = self._firsts_s / self._firsts if self._firsts else 0.0
        expected_s = first_s + self._token_s * sum(answers) / len(answers)
        return expected_s + (held_s - expected_s) * self._served / SURE

    def slot_s(self, now: float, slots: int, holders: Iterable[Ticket], *, mean_s: float | None = None) -> float:
        """Seconds between one slot's coming free and the next's.

        Args:
            slots: over how many slots work is spread, 1 at least.
            holders: what runs, oldest first. Those that have run for longer than they should count with the time that
                they have run so far, as far as it is more than is usual: where work became longer, or hangs, no
                completion would tell.
            mean_s: for how long they are held in the mean; None: as tokens come now.
        """
        if mean_s is None:
            mean_s = self.now_s(holders)
        mean_s = mean_s or SLOT_S * slots
        beyond_s, mass = 0.0, self._mass
        slope_s = self._slope_s * mean_s / self.mean_s if self._slope_s else 0.0
        # As ``length`` has it, in place: of a thousand slots hundreds may be looked at, at each who comes.
        most_s = min(slope_s * self._near(inf), (MOST_LENGTH - 1.0) * mean_s)
        for ticket in holders:
            over_s = now - ticket.granted_at - mean_s
            if over_s <= 0:
                break
            longer_s = slope_s * (ticket.claim.answer - self._answer)
            if longer_s > 0:
                over_s -= longer_s if longer_s < most_s else most_s
            if over_s > 0:
                beyond_s += over_s * ticket.weight
            mass += ticket.weight
        if beyond_s and self.mean_s > LEAST_S:
            # Where times differ, some run for longer at every moment, and the longest most likely of all.
            beyond_s -= slots * self._beyond_s2 * mean_s / (2 * self.mean_s * self.mean_s)
        return max((mean_s + beyond_s / mass if beyond_s > 0 else mean_s) / slots, LEAST_S)
