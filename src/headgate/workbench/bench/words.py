"""Text of so many tokens, without a tokenizer. Pure: chance is handed in.

Prompts are the commonest short words drawn by chance: nearly every tokenizer has each of them as one token, no two
prompts begin alike, and none is in the engine's prefix cache by accident. How many tokens a word is, and how many an
engine adds around a prompt (its chat template), is measured: two prompts of different length, counted by the engine
itself, give both.
"""

from __future__ import annotations

import random

import msgspec

_WORDS = (
    "the and for are but not you all any can had her was one our out day get has him his how man new now "
    "old see two way who boy did its let put say she too use air end few got far big sea sun run red ten "
    "top cut low yes yet why own off men car law eye ask try buy set sit bad age ago add act art bed box "
    "bag bit war win "
)
WORDS = tuple(_WORDS.split())
"""All of three letters: with its space a word is four bytes, which the simulated engine, too, takes for a token."""

CLOSING = "\n\nWrite a story with all of these words in it, as long as you can."
"""Asks for a long answer, for engines that can't be told to go on. At the end: a common beginning would be cached."""


class Scale(msgspec.Struct, frozen=True):
    """Tokens of a prompt: ``around`` and ``per_word`` for each word."""

    per_word: float = 1.0
    around: float = 0.0

    def words(self, tokens: float) -> int:
        """How many words make about so many tokens, at least one."""
        return max(1, round((tokens - self.around) / self.per_word))


def fit(few: tuple[int, int], many: tuple[int, int]) -> Scale | None:
    """The scale from two prompts, each as (words, tokens); None where the counts make no sense."""
    words, tokens = many[0] - few[0], many[1] - few[1]
    if words <= 0 or tokens <= 0:
        return None
    per_word = tokens / words
    return Scale(per_word, max(0.0, few[1] - few[0] * per_word))


def text(dice: random.Random, count: int) -> str:
    """So many words."""
    return " ".join(dice.choices(WORDS, k=count))


def prompt(dice: random.Random, count: int) -> str:
    """So many words, and what is to be done with them."""
    return text(dice, count) + CLOSING
