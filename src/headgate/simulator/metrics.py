"""vLLM's metrics, counted by the engine and written out as Prometheus text.

Counts are plain numbers and lists that a step touches a few times, whatever the batch; prometheus_client sees
them only when somebody scrapes. Names and labels are vLLM's, buckets too (latencies begin at 0.3 s there).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from headgate.simulator.engine import Engine
    from headgate.simulator.sequence import Made, Sequence

_LONG = (20.0, 40.0, 80.0)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, *_LONG),
    *(160.0, 640.0, 2560.0),
)
_PER_TOKEN = (*(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, *_LONG),)
_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
_STEP_TOKENS = tuple(float(2**i) for i in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14))
FINISHES = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Book a value that was seen so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts as Prometheus has them, the last one for ``+Inf``."""
        running = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows


class Statistics:
    """What has happened since the start."""

    def __init__(self, max_model_len: int) -> None:
        lengths = tuple(float(m * 10**e) for e in range(7) for m in (1, 2, 5) if m * 10**e <= max_model_len)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: dict[str, int] = dict.fromkeys(FINISHES, 0)
        self.histograms = {
            "iteration_tokens_total": Histogram(_STEP_TOKENS),
            "time_to_first_token_seconds": Histogram(_FIRST_TOKEN),
            "inter_token_latency_seconds": Histogram(_PER_TOKEN),
            "request_time_per_output_token_seconds": Histogram(_PER_TOKEN),
            "e2e_request_latency_seconds": Histogram(_LATENCY),
            "request_queue_time_seconds": Histogram(_LATENCY),
            "request_inference_time_seconds": Histogram(_LATENCY),
            "request_prefill_time_seconds": Histogram(_LATENCY),
            "request_decode_time_seconds": Histogram(_LATENCY),
            "request_prompt_tokens": Histogram(lengths),
            "request_generation_tokens": Histogram(lengths),
        }

    def step(self, made: Made) -> None:
        """Book one step."""
        self.histograms["iteration_tokens_total"].observe(made.tokens)
        self.generation_tokens += len(made.gained)
        for sequence in made.first:
            self.prompt_tokens += sequence.prompt_tokens
            self.generation_tokens -= sequence.pooling
            if sequence.first_token_s is not None and not sequence.pooling:
                waited = sequence.first_token_s - sequence.arrived_s
                self.histograms["time_to_first_token_seconds"].observe(max(0.0, waited))
        between = self.histograms["inter_token_latency_seconds"]
        for gap, times in made.gaps.items():
            between.observe(gap, times)

    def ended(self, sequence: Sequence, now: float) -> None:
        """Book a sequence's end, whichever it was."""
        self.finished[sequence.finished or "error"] += 1
        scheduled = sequence.scheduled_s if sequence.scheduled_s is not None else now
        first = sequence.first_token_s if sequence.first_token_s is not None else now
        last = sequence.last_token_s if sequence.last_token_s is not None else now
        per_token = (last - first) / (sequence.made - 1) if sequence.made > 1 else 0.0
        for name, value in (
            ("e2e_request_latency_seconds", now - sequence.arrived_s),
            ("request_queue_time_seconds", scheduled - sequence.arrived_s),
            ("request_inference_time_seconds", last - scheduled),
            ("request_prefill_time_seconds", first - scheduled),
            ("request_decode_time_seconds", last - first),
            ("request_time_per_output_token_seconds", per_token),
            ("request_prompt_tokens", float(sequence.prompt_tokens)),
            ("request_generation_tokens", float(0 if sequence.pooling else sequence.made)),
        ):
            self.histograms[name].observe(max(0.0, value))


class Exposition:
    """Everything as Prometheus text; a collector for prometheus_client's own registry."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._labels = {"model_name": model, "engine": "0"}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """The whole page, in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Metric families, made from the counts as they are now."""
        engine, scheduler, counted = self._engine, self._engine.scheduler, self._engine.statistics
        names, values = tuple(self._labels), tuple(self._labels.values())

        def gauge(name: str, help_: str, rows: dict[tuple[str, ...], float], *more: str) -> GaugeMetricFamily:
            family = GaugeMetricFamily(f"vllm:{name}", help_, labels=(*names, *more))
            for labels, value in rows.items():
                family.add_metric((*values, *labels), value)
            return family

        def counter(name: str, help_: str, rows: dict[tuple[str, ...], float], *more: str) -> CounterMetricFamily:
            family = CounterMetricFamily(f"vllm:{name}", help_, labels=(*names, *more))
            for labels, value in rows.items():
                family.add_metric((*values, *labels), value)
            return family

        waiting = len(scheduler.waiting)
        blocks, limits = scheduler.blocks, scheduler.limits
        yield gauge("num_requests_running", "Sequences in the batch.", {(): len(scheduler.running)})
        yield gauge("num_requests_waiting", "Sequences that wait for a place.", {(): waiting})
        yield gauge(
            "num_requests_waiting_by_reason",
            "Sequences that wait, by what they wait for.",
            {("capacity",): waiting, ("deferred",): 0},
            "reason",
        )
        yield gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", {(): blocks.used / blocks.total})
        states = ("awake", "weights_offloaded", "discard_all")
        yield gauge(
            "engine_sleep_state",
            "1 for the state that the engine is in.",
            {(state,): float(i == engine.asleep) for i, state in enumerate(states)},
            "sleep_state",
        )
        yield counter("prefix_cache_queries", "Prompt tokens looked up.", {(): scheduler.prefix_queries})
        yield counter("prefix_cache_hits", "Prompt tokens found.", {(): scheduler.prefix_hits})
        yield counter("num_preemptions", "Sequences that had to give way.", {(): scheduler.preemptions})
        yield counter("prompt_tokens", "Prompt tokens computed or found.", {(): counted.prompt_tokens})
        yield counter("generation_tokens", "Tokens made.", {(): counted.generation_tokens})
        ends: dict[tuple[str, ...], float] = {(k,): v for k, v in counted.finished.items()}
        yield counter("request_success", "Sequences that ended, by how.", ends, "finished_reason")
        for name, seen in counted.histograms.items():
            family = HistogramMetricFamily(f"vllm:{name}", name.replace("_", " "), labels=names)
            family.add_metric(values, buckets=seen.buckets(), sum_value=seen.total)
            yield family
        tokens = limits.num_gpu_blocks * limits.block_size
        info = {
            "block_size": str(limits.block_size),
            "enable_prefix_caching": str(limits.prefix_caching),
            "num_gpu_blocks": str(limits.num_gpu_blocks),
            "kv_cache_size_tokens": str(tokens),
            "kv_cache_max_concurrency": f"{tokens / limits.max_model_len:.2f}",
            "max_num_seqs": str(limits.max_num_seqs),
        }
        yield gauge("cache_config_info", "What the cache is made of.", {tuple(info.values()): 1.0}, *info)
