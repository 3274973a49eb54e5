"""What an engine says of itself, and how many slots follow from it.

Read from the text of its ``/metrics`` and the JSON of its ``/v1/models``. Separate because it is reading,
with no HTTP. The reader looks for a few names only: a vLLM's page has thousands of lines, is read every
second or two, and a parser of all of them costs fifty times as much. It ends at numbers; asking the engine is
``probe``'s part.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from headgate.pool.progress import NO_COUNTERS, Counters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ITERATION_TOKENS = "vllm:iteration_tokens_total_count"
GENERATION_TOKENS = "vllm:generation_tokens_total"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_USAGE = "vllm:kv_cache_usage_perc"
CACHE_CONFIG = "vllm:cache_config_info"
GAPS_S, GAPS = "vllm:inter_token_latency_seconds_sum", "vllm:inter_token_latency_seconds_count"
FIRSTS_S, FIRSTS = "vllm:time_to_first_token_seconds_sum", "vllm:time_to_first_token_seconds_count"
PREEMPTIONS = "vllm:num_preemptions_total"

VLLM_MAX_NUM_SEQS = 256
"""vLLM's own default, but for the largest GPUs, where it is higher: fewer is the safe side."""

SLOTS_UNKNOWN = 8
MOST_SLOTS = 1_000_000
"""As many as MAX_ACTIVE may be: the line's forecast has a place for each."""
MOST = 1e12
"""No engine counts so far: a greater number is garbage, and with infinity nothing can be counted."""

_WANTED = "|".join(
    (
        *(ITERATION_TOKENS, GENERATION_TOKENS, RUNNING, WAITING, KV_USAGE, CACHE_CONFIG),
        *(GAPS_S, GAPS, FIRSTS_S, FIRSTS, PREEMPTIONS),
    )
)
_SERIES = re.compile(rf'^({_WANTED})(?:\{{((?:[^"}}\n]|"(?:\\.|[^"\\\n])*")*)\}})?[ \t]+(\S+)', re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:\\.|[^"\\])*)"')


class Pace(NamedTuple):
    """How fast an engine is, as totals since its start; 0 where it doesn't say.

    Attributes:
        gaps_s, gaps: the times between two tokens of a sequence, in seconds, and how many.
        firsts_s, firsts: the times from a request's coming to the engine to its first token.
        preemptions: sequences that had to give way.
    """

    gaps_s: float = 0.0
    gaps: float = 0.0
    firsts_s: float = 0.0
    firsts: float = 0.0
    preemptions: float = 0.0


NO_PACE = Pace()


@dataclass(frozen=True, slots=True)
class Metrics:
    """The few series we read; summed where an engine has several parts (``engine="0"``, ``"1"``, …)."""

    counters: Counters = NO_COUNTERS
    waiting: float | None = None
    kv_usage: float | None = None
    kv_tokens: int | None = None
    kv_max_concurrency: float | None = None
    max_num_seqs: int | None = None
    pace: Pace = NO_PACE


@dataclass(frozen=True, slots=True)
class Statement:
    """What does not change while an engine runs; None where it does not say."""

    max_model_len: int | None = None
    kv_tokens: int | None = None
    kv_max_concurrency: float | None = None
    max_num_seqs: int | None = None


def read_metrics(text: str) -> Metrics:
    """Read the few series that are wanted here from a page in Prometheus' text format."""
    totals: dict[str, float] = {}
    kv_usage: float | None = None
    kv_tokens: list[float] = []
    kv_concurrency: list[float] = []
    max_num_seqs: list[float] = []
    for name, labels, value in _SERIES.findall(text):
        if name == CACHE_CONFIG:
            said = dict(_LABEL.findall(labels))
            kv_tokens += _known(_kv_tokens(said))
            kv_concurrency += _known(_number(said.get("kv_cache_max_concurrency")))
            max_num_seqs += _known(_number(said.get("max_num_seqs")))  # not vLLM's; the simulated engine says so
            continue
        number = _number(value)
        if number is None:
            continue
        if name == KV_USAGE:
            kv_usage = max(number, kv_usage or 0.0)  # the fullest part is the one that preempts
        else:
            totals[name] = totals.get(name, 0.0) + number
    return Metrics(
        counters=Counters(totals.get(ITERATION_TOKENS), totals.get(GENERATION_TOKENS), totals.get(RUNNING)),
        waiting=totals.get(WAITING),
        kv_usage=kv_usage,
        kv_tokens=int(sum(kv_tokens)) if kv_tokens else None,
        kv_max_concurrency=sum(kv_concurrency) if kv_concurrency else None,
        max_num_seqs=int(sum(max_num_seqs)) if max_num_seqs else None,
        pace=Pace(*(totals.get(name, 0.0) for name in (GAPS_S, GAPS, FIRSTS_S, FIRSTS, PREEMPTIONS))),
    )


def read_statement(metrics: Metrics | None, models: Sequence[Mapping[str, object]]) -> Statement:
    """Put together what the two pages say."""
    lengths = [length for card in models if isinstance(length := card.get("max_model_len"), int)]
    max_model_len = max(lengths, default=None)
    if metrics is None:
        return Statement(max_model_len=max_model_len)
    concurrency = metrics.kv_max_concurrency
    if concurrency is None and metrics.kv_tokens is not None and max_model_len:
        concurrency = metrics.kv_tokens / max_model_len
    return Statement(max_model_len, metrics.kv_tokens, concurrency, metrics.max_num_seqs)


def slots(max_num_seqs: int | None, statement: Statement) -> int:
    """How many generations an engine takes at once, at most: what it schedules.

    How many of them its KV cache holds depends on how long they become; at full length it is a few, mostly it is many
    times that (``kv_max_concurrency`` is shown, and not a cap). What is too many shows while it runs.

    Args:
        max_num_seqs: what it was started with, as far as that is known.
        statement: what it says.
    """
    scheduled = statement.max_num_seqs if max_num_seqs is None else max_num_seqs
    if scheduled is not None:
        return min(max(1, scheduled), MOST_SLOTS)
    return SLOTS_UNKNOWN if statement.kv_tokens is None else VLLM_MAX_NUM_SEQS


def _kv_tokens(said: Mapping[str, str]) -> float | None:
    tokens = _number(said.get("kv_cache_size_tokens"))
    if tokens is not None:
        return tokens
    blocks, block_size = _number(said.get("num_gpu_blocks")), _number(said.get("block_size"))
    return None if blocks is None or block_size is None else blocks * block_size


def _known(number: float | None) -> list[float]:
    return [] if number is None else [number]


def _number(text: str | None) -> float | None:
    """A number that can be meant, or None: a label may read ``None``, a series ``NaN``."""
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if abs(number) <= MOST else None
