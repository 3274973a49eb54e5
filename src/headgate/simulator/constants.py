"""What a simulated engine is made of: how long things take, and how much of each thing there is.

Separate from the scheduler because these numbers are data: they come from a file or from flags, and the times
can be fitted to a real engine's measurements (``workbench.fitting``). Ends at the numbers; what is done with them is
in ``scheduler``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

MOST = 1_000_000_000
"""No duration and no number is larger: what no clock can count to is a slip."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Durations in seconds. The defaults resemble a 0.5 B model on a small GPU.

    One engine step takes ``base_s + per_sequence_s * running + per_prefill_token_s * prefill_tokens +
    per_context_token_s * context_tokens``; a token's context is what attention reads for it: every token before it.
    ``latency_s`` is what a request spends outside the engine, however busy that is.
    """

    base_s: float = 0.006
    per_sequence_s: float = 0.000_05
    per_prefill_token_s: float = 0.000_02
    per_context_token_s: float = 0.0
    latency_s: float = 0.0
    load_s: float = 0.3
    sleep_1_s: float = 0.2
    sleep_2_s: float = 0.05
    wake_1_s: float = 0.15
    wake_2_s: float = 0.6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= MOST:
                raise ValueError(f"{field.name} must be a number from 0 to {MOST:,}, not {value}")

    def step_s(self, running: int, prefill_tokens: int, context_tokens: int = 0) -> float:
        """Seconds that one step takes with so many sequences in it, prompt tokens computed and tokens attended to."""
        return (
            self.base_s
            + self.per_sequence_s * running
            + self.per_prefill_token_s * prefill_tokens
            + self.per_context_token_s * context_tokens
        )

    def sped_up(self, factor: float) -> Constants:
        """The same engine, ``factor`` times as fast in everything."""
        return Constants(**{f.name: getattr(self, f.name) / factor for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there is. ``max_num_batched_tokens`` is for a step, ``block_size`` in tokens."""

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_model_len: int = 4096
    num_gpu_blocks: int = 4096
    block_size: int = 16
    prefix_caching: bool = True
    static_batching: bool = False

    def __post_init__(self) -> None:
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
            "num_gpu_blocks",
            "block_size",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value}")
        if self.num_gpu_blocks * self.block_size < self.max_model_len:
            # vLLM refuses to start too: one sequence of full length could never end.
            raise ValueError(
                f"max_model_len {self.max_model_len} does not fit the KV cache of "
                f"{self.num_gpu_blocks * self.block_size} tokens"
            )


def load(path: Path) -> tuple[Constants, dict[str, Any]]:
    """Read a TOML or JSON file of constants, flat: any field of ``Constants`` and of ``Limits``.

    Returns the constants, and the limits' fields that the file names (they are checked together with the
    flags). Raises ValueError where the file cannot be read, a key is unknown or a value is not a number.
    """
    try:
        raw = path.read_bytes()
        values = msgspec.json.decode(raw) if path.suffix == ".json" else msgspec.toml.decode(raw)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a table of constants is expected")
    times = {f.name for f in fields(Constants)}
    sizes = {f.name for f in fields(Limits)}
    if unknown := sorted(set(values) - times - sizes):
        raise ValueError(f"{path}: unknown constant {unknown[0]!r}")
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 <= value <= MOST:
            raise ValueError(f"{path}: {name} must be a number from 0 to {MOST:,}, not {value!r:.40}")
    durations = {k: float(v) for k, v in values.items() if k in times}
    return replace(Constants(), **durations), {k: v for k, v in values.items() if k in sizes}
