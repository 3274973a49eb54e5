"""What one request gets: its choices' text as it is made, handed from the engine's step to whoever writes it
out.

A reader that is slower than the engine finds several tokens joined into one delta, as with vLLM.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.simulator.sequence import Finish, Sequence


class ClientLeft(Exception):
    """The connection is gone; there is nobody to write to."""


@dataclass(slots=True)
class Plan:
    """One choice, decided on arrival: the text that it will have, a piece for each token."""

    prompt_tokens: int
    pieces: list[str]
    ends: Finish = "length"
    stop_reason: str | None = None
    hashes: list[int] = field(default_factory=list)
    pooling: bool = False


@dataclass(slots=True)
class Delta:
    """New text of one choice; ``finish`` on its last one."""

    index: int
    text: str
    tokens: int
    finish: Finish | None


class Answer:
    """The sequences of one request. One reader at a time.

    Attributes:
        interval: so many tokens of a choice are told at a time, but for its first and its last: ``stream_interval``.
    """

    def __init__(self, plans: list[Plan], sequences: list[Sequence]) -> None:
        self.plans = plans
        self.sequences = sequences
        self.interval = 1
        self.ended = asyncio.Event()
        self._read = [0] * len(plans)
        self._open = len(plans)
        self._fresh: dict[int, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._left = False

    @property
    def made(self) -> int:
        """Tokens made so far, of all choices."""
        return sum(sequence.made for sequence in self.sequences)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were in the KV cache already."""
        return sum(sequence.cached_tokens for sequence in self.sequences)

    def gained(self, index: int) -> None:
        """A choice has a token more, or has ended."""
        if self.interval > 1:
            sequence, read = self.sequences[index], self._read[index]
            if sequence.finished is None and read > 0 and sequence.made - read < self.interval:
                return
        self._fresh[index] = None
        self._wake()

    def one_ended(self) -> None:
        """One choice has ended."""
        self._open -= 1
        if not self._open:
            self.ended.set()

    def leave(self) -> None:
        """The reader's client is gone: ``deltas`` raises ClientLeft from now on."""
        self._left = True
        self._wake()

    async def deltas(self) -> list[Delta]:
        """What is new, at least one delta; empty once every choice has been read to its end."""
        while not self._fresh:
            if self._left:
                raise ClientLeft
            if self.ended.is_set():
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._left:
            raise ClientLeft
        fresh, self._fresh = self._fresh, {}
        return [self._delta(index) for index in fresh]

    async def whole(self) -> list[str]:
        """The text of every choice, once all have ended."""
        while not self.ended.is_set():
            await self.deltas()
        if self._left:
            raise ClientLeft
        return [
            "".join(plan.pieces[: sequence.made]) for plan, sequence in zip(self.plans, self.sequences, strict=True)
        ]

    def _delta(self, index: int) -> Delta:
        sequence = self.sequences[index]
        begin, end = self._read[index], sequence.made
        self._read[index] = end
        pieces = self.plans[index].pieces
        text = pieces[begin] if end - begin == 1 and pieces else "".join(pieces[begin:end])
        return Delta(index, text, end - begin, sequence.finished)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
