"""What an engine says of itself, and the slots that follow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headgate.pool.progress import Counters
from headgate.pool.statement import Metrics, Pace, Statement, read_metrics, read_statement, slots

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/{odd} \\"name\\""} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",kv_cache_max_concurrency="7.9",\
kv_cache_size_tokens="16179",num_gpu_blocks="1024"} 1.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.25e+06
vllm:num_preemptions_total{engine="0",model_name="m"} 7.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.5",model_name="m"} 9.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 9.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 0.5
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 2.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.25
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 5.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 4321.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 99999.0
"""
CARDS: tuple[dict[str, object], ...] = ({"id": "m", "max_model_len": 2048},)


def test_the_few_series_are_read_from_a_real_page() -> None:
    assert read_metrics(PAGE) == Metrics(
        counters=Counters(4321, 1_250_000, 5),
        waiting=1,
        kv_usage=0.75,
        kv_tokens=16179,
        kv_max_concurrency=7.9,
        pace=Pace(gaps_s=0.5, gaps=9, firsts_s=0.25, firsts=2, preemptions=7),
    )


def test_what_is_not_there_is_not_known() -> None:
    assert read_metrics("") == Metrics()
    assert read_metrics('vllm:num_requests_running NaN\nvllm:cache_config_info{num_gpu_blocks="None"} 1\n') == Metrics()


@pytest.mark.parametrize("labels", ['max_num_seqs="1e300"', 'num_gpu_blocks="1e200",block_size="1e200"'])
def test_a_number_that_nobody_can_mean_is_not_known(labels: str) -> None:
    """Infinity was no whole number, so the engine could not be watched; and the gateway died of 1e300 slots."""
    assert read_metrics(f"vllm:cache_config_info{{{labels}}} 1\n" * 2) == Metrics()
    assert slots(None, Statement(max_num_seqs=10**12)) == 10**6


def test_blocks_make_tokens_where_the_engine_does_not_say_the_product() -> None:
    metrics = read_metrics('vllm:cache_config_info{block_size="16",num_gpu_blocks="1024"} 1.0\n')
    assert read_statement(metrics, CARDS) == Statement(2048, 16384, 8.0)


def test_an_engine_with_no_metrics_page_still_tells_its_length() -> None:
    assert read_statement(None, CARDS) == Statement(max_model_len=2048)
    assert read_statement(None, [{"id": "x", "max_model_len": None}]) == Statement()


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.floats(0, 1e9), max_size=4))
def test_sums_agree_with_the_library_that_writes_the_page_whatever_a_model_is_called(
    values: dict[str, float],
) -> None:
    registry = CollectorRegistry()
    running = Gauge("vllm:num_requests_running", "x", ["model_name"], registry=registry)
    made = Counter("vllm:generation_tokens", "x", ["model_name"], registry=registry)
    steps = Histogram("vllm:iteration_tokens_total", "x", ["model_name"], registry=registry)
    for name, value in values.items():
        running.labels(name).set(value)
        made.labels(name).inc(value)
        steps.labels(name).observe(value)
    counters = read_metrics(generate_latest(registry).decode()).counters
    if not values:
        assert counters == Counters()
        return
    assert counters.iteration_tokens == len(values)
    assert counters.running is not None
    assert abs(counters.running - sum(values.values())) <= 1e-6 * sum(values.values())
    assert counters.generation_tokens == counters.running


def test_slots_are_what_the_engine_schedules_whatever_its_cache_holds_at_full_length() -> None:
    assert slots(16, Statement(kv_max_concurrency=7.9)) == 16
    assert slots(4, Statement()) == 4


def test_what_an_engine_says_of_its_batch_counts_where_we_did_not_start_it() -> None:
    assert slots(None, Statement(kv_tokens=16_000, max_num_seqs=64)) == 64
    assert slots(None, Statement(kv_tokens=16_000)) == 256


def test_eight_slots_where_nothing_is_known() -> None:
    assert slots(None, Statement()) == 8
