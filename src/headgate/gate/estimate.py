"""How many tokens a request will take, before anybody knows: what a fair line charges for it until it has ended.

From the length of its prompt and the most that it allows for its answer, corrected by what this caller's requests
took before: most callers allow far more than they use. Kept for each key, of which there are few.
"""

from __future__ import annotations

_GAIN = 0.1
_BYTES_PER_TOKEN = 4.0
_FIRST_ANSWER = 128.0
"""Tokens of an answer whose caller named no limit and was never seen."""


class _Habit:
    __slots__ = ("answer", "bytes_per_token")

    def __init__(self) -> None:
        self.answer = _FIRST_ANSWER
        self.bytes_per_token = _BYTES_PER_TOKEN


class Estimate:
    """What to expect, by key."""

    def __init__(self) -> None:
        self._habits: dict[str, _Habit] = {}

    def tokens(self, key: str, body_bytes: int, most: int | None, sequences: int = 1) -> float:
        """Prompt and answers together, 1 at least.

        Args:
            body_bytes: the size of the request's body without pictures and sounds, most of which is its prompt.
            most: the most tokens that it allows for an answer; None: it doesn't say. 0: it asks for none.
            sequences: how many answers it asks for.
        """
        return body_bytes / self._habit(key).bytes_per_token + self.answer(key, most) * sequences or 1.0

    def answer(self, key: str, most: int | None) -> float:
        """One answer, in tokens; ``most`` as above."""
        answer = self._habit(key).answer
        return most if most is not None and most < answer else answer

    def _habit(self, key: str) -> _Habit:
        habit = self._habits.get(key)
        if habit is None:
            habit = self._habits[key] = _Habit()
        return habit

    def learn(
        self,
        key: str,
        body_bytes: int,
        prompt_tokens: int,
        completion_tokens: int,
        sequences: int = 1,
        most: int | None = None,
    ) -> None:
        """A request has ended, and this is what it took; ``most`` as above.

        An answer that was cut at the most that it might have says that others are as long, and not that they are no
        longer: titles of 16 tokens are no reason to expect 16 of a question that says nothing.
        """
        habit = self._habits.get(key)
        if habit is None:
            return
        answer = completion_tokens / sequences
        if most is None or answer < most or answer > habit.answer:
            habit.answer += (answer - habit.answer) * _GAIN
        if prompt_tokens:
            habit.bytes_per_token += (body_bytes / prompt_tokens - habit.bytes_per_token) * _GAIN
