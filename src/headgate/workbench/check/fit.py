"""Whether a model fits on the GPU: its weights, what runs around them, and a KV cache for one longest request.

Rough, and it says how each number was got: vLLM measures at its start what is only assumed here. ``headgate plan``
reckons with more. It ends at a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headgate.pool.launchers import options, whole_number
from headgate.workbench.check.finding import GIB, Finding, fail, ok, size, some, warn
from headgate.workbench.check.weights import Config

SHARE = 0.92
"""vLLM's own default of --gpu-memory-utilization."""

AROUND = int(1.5 * GIB)
"""Activations, CUDA graphs and the CUDA context: an assumption."""

_SHRINKS = ("--quantization", "-q", "--cpu-offload-gb", "--load-format", "--hf-overrides")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What ENGINE_ARGS say about memory."""

    share: float = SHARE
    gpus: int = 1
    max_model_len: int | None = None
    tells_bytes: bool = False
    changes_weights: bool = False
    kv_bytes_per_value: int | None = None


def wishes(args: Sequence[str]) -> Wishes:
    """Read them from the arguments, as far as they are understood here."""
    share = SHARE
    if said := options(args, "--gpu-memory-utilization"):
        try:
            share = float(said[0])
        except ValueError:
            share = SHARE  # vLLM will say what is wrong with it
    tensor = whole_number(args, "--tensor-parallel-size") or _short(args, "-tp") or 1
    pipeline = whole_number(args, "--pipeline-parallel-size") or _short(args, "-pp") or 1
    kv_type = (options(args, "--kv-cache-dtype") or ["auto"])[0]
    return Wishes(
        share,
        tensor * pipeline,
        whole_number(args, "--max-model-len"),
        options(args, "--kv-cache-memory-bytes") is not None,
        any(arg.partition("=")[0] in _SHRINKS for arg in args),
        1 if kv_type.startswith("fp8") else None,
    )


def kv_bytes_per_token(config: Config, bytes_per_value: int | None) -> int | None:
    """What one token takes in the KV cache, over all layers; None for models that it can't be told for."""
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if not layers or not heads or (config.layer_types and set(config.layer_types) != {"full_attention"}):
        return None  # hybrid and sliding-window layers hold less, and not for each token
    value = bytes_per_value or (4 if "float32" in (config.dtype, config.torch_dtype) else 2)
    if config.kv_lora_rank:
        return layers * (config.kv_lora_rank + (config.qk_rope_head_dim or 0)) * value
    head_dim = config.head_dim or (config.hidden_size or 0) // heads
    return 2 * layers * (config.num_key_value_heads or heads) * head_dim * value or None


def describe(weights_bytes: int, how: str, config: Config, gpu_total: int, wish: Wishes) -> Finding:
    """Whether it fits, with the sum.

    Args:
        weights_bytes: of the whole model; each GPU gets its part.
        how: where that number comes from.
        config: the model's.
        gpu_total: memory of the smallest GPU that is used.
        wish: what ENGINE_ARGS say.
    """
    budget = int(wish.share * gpu_total)
    part = weights_bytes // wish.gpus
    each = f", {size(part)} on each of {wish.gpus} GPUs" if wish.gpus > 1 else ""
    left = budget - part - AROUND
    total = f"{size(weights_bytes)} of weights ({how}){each}"
    of = f"{size(budget)}, which is {wish.share:.0%} of the GPU's {size(gpu_total)}"
    if left <= 0:
        what = f"{total} and about {size(AROUND)} around them don't go into {of}"
        mend = "Take a smaller or quantised model, or share it among GPUs with --tensor-parallel-size."
        return (warn if wish.changes_weights else fail)("fit", what, mend)
    per_token = kv_bytes_per_token(config, wish.kv_bytes_per_value)
    room = f"{total} in {of}: about {size(left)} left for the KV cache"
    if per_token is None:
        return ok("fit", room)
    tokens = left * wish.gpus // per_token
    room += f", some {some(tokens)} tokens at {size(per_token)} (config.json)"
    longest = wish.max_model_len or config.max_position_embeddings
    if longest is not None and tokens < longest:
        mend = f"Add --max-model-len {max(256, tokens * 9 // 10 // 256 * 256)} to --engine-args."
        return warn("fit", f"{room}; one request may have {longest:,}, and vLLM won't start if that doesn't fit", mend)
    return ok("fit", room)


def least(weights_bytes: int | None, wish: Wishes) -> int | None:
    """What each GPU must have at the very least; None where the weights aren't known."""
    return None if weights_bytes is None else weights_bytes // wish.gpus + AROUND


def kv_cache_in_ram(wish: Wishes) -> Finding:
    """A vLLM built for CPUs, that nobody told how much RAM its KV cache may have."""
    return warn(
        "fit",
        f"vLLM takes {wish.share:.0%} of all RAM for its KV cache, and fails where that much isn't free",
        "Set VLLM_CPU_KVCACHE_SPACE to so many GiB, such as 4.",
    )


def _short(args: Sequence[str], name: str) -> int | None:
    for position, arg in enumerate(args[:-1]):
        if arg == name and args[position + 1].isdecimal():
            return int(args[position + 1])
    return None
