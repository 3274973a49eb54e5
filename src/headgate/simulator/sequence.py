"""One sequence in the engine: what it asked for, how far it is, and when its moments were. Pure data.

``arrived_s`` and the like are seconds on the clock that the scheduler is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from headgate.simulator.blocks import Table

Finish = Literal["stop", "length", "abort"]


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence, from its arrival to its one end.

    Args:
        prompt_tokens: at least 1.
        output_tokens: how many it will make unless it is aborted, at least 1.
        ends: what is said when it has made them.
        hashes: one for each whole block of the prompt (``text.block_hashes``).
        pooling: its one token stands for an embedding or a score, and isn't counted as generated.
    """

    prompt_tokens: int
    output_tokens: int
    ends: Finish = "length"
    hashes: list[int] = field(default_factory=list)
    arrived_s: float = 0.0
    pooling: bool = False
    order: int = 0
    made: int = 0
    computed: int = 0
    cached_tokens: int = 0
    table: Table | None = None
    finished: Finish | None = None
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values it needs before it can make the next one."""
        return self.prompt_tokens + self.made


@dataclass(slots=True)
class Step:
    """What one engine step computes: how many tokens of each sequence, and how long it takes in seconds."""

    work: list[tuple[Sequence, int]]
    prefill_tokens: int
    seconds: float


@dataclass(slots=True)
class Made:
    """What a step brought.

    Args:
        gained: the sequences that made a token; ``first`` and ``ended`` are those of them for which it was
            the first or the last.
        gaps: seconds since the token before, and how many sequences had just that gap.
        tokens: computed in the step, of prompts and answers.
    """

    gained: list[Sequence]
    first: list[Sequence]
    ended: list[Sequence]
    gaps: dict[float, int]
    tokens: int
