"""What an answer will be: its length, its words and how it ends, decided on arrival. Pure.

Ends at the plan: when its tokens are made is up to the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate.simulator import text
from headgate.simulator.answer import Plan
from headgate.simulator.problem import Problem

if TYPE_CHECKING:
    from headgate.simulator.fields import Fields

DEFAULT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Planner:
    """Decides answers.

    Args:
        max_model_len: tokens of prompt and answer together.
        block_size: tokens in a block of KV cache.
        mean_tokens: of drawn lengths; None where answers are as long as they may be.
        length_shape: ``geometric`` or ``lognormal``.
    """

    max_model_len: int
    block_size: int
    mean_tokens: float | None = None
    length_shape: str = "geometric"

    def generate(self, fields: Fields, prompts: list[bytes], limit: int | None, n: int = 1) -> list[Plan]:
        """``n`` choices for each prompt, in that order.

        An answer has ``limit`` tokens, ``DEFAULT_TOKENS`` where that is None. It ends sooner (``stop``) at a
        stop string, after ``simulate.tokens``, or after a drawn length unless ``ignore_eos`` is set. Raises
        Problem (400) where a prompt, or a prompt and its ``limit``, are longer than the model takes.
        """
        stops = fields.texts("stop") or fields.texts("stop_sequences")
        least = fields.integer("min_tokens") or 0
        own_length = fields.inner("simulate").integer("tokens", minimum=1)
        drawing = own_length is None and not fields.flag("ignore_eos")
        plans = []
        for prompt in prompts:
            tokens = self._fitting(prompt, limit)
            hashes = text.block_hashes(prompt, self.block_size)
            length = limit or min(DEFAULT_TOKENS, self.max_model_len - tokens)
            for choice in range(n):
                seed = prompt + b"\0%d" % choice
                if drawing and self.mean_tokens is not None:
                    own_length = max(least, text.drawn_length(seed, self.mean_tokens, self.length_shape))
                stopped = own_length is not None and own_length < length
                pieces = text.words(seed, min(length, own_length or length))
                pieces, met = text.cut_at_stop(pieces, stops, least)
                plans.append(Plan(tokens, pieces, "stop" if stopped or met is not None else "length", met, hashes))
        return plans

    def pool(self, prompts: list[bytes]) -> list[Plan]:
        """One prefill for each text to be embedded or scored. Raises Problem (400) where one is too long."""
        return [Plan(self._fitting(prompt, None), [""], "stop", pooling=True) for prompt in prompts]

    def _fitting(self, prompt: bytes, limit: int | None) -> int:
        """The tokens of a prompt after which there is room for its answer."""
        tokens = text.token_count(prompt)
        output = limit or 1
        if tokens + output > self.max_model_len:
            raise Problem(
                400,
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested"
                f" {output} output tokens and your prompt contains at least {tokens} input tokens, for a total"
                f" of at least {tokens + output} tokens. Please reduce the length of the input prompt or the"
                " number of requested output tokens.",
                param="input_tokens",
            )
        return tokens
