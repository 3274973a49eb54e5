"""The process: its start, its metrics, leaving clients, sleep, its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.simulated import simulated_engine, start_simulated

LONG: dict[str, Any] = {"prompt": "a long story", "max_tokens": 3000}


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    command = [sys.executable, "-m", "headgate.simulator", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_it_listens_soon_after_its_start() -> None:
    begun = time.monotonic()
    with simulated_engine() as engine:
        taken_s = time.monotonic() - begun
        assert httpx.get(f"{engine.url}/health").status_code == 200
        assert "Starting to load model headgate-simulated" in engine.log()
        assert "Application startup complete." in engine.log()
    assert taken_s < 5, "a quarter of a second on an idle machine, with room for a busy one"


def test_the_port_refuses_connections_until_the_model_is_loaded() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process, stderr = start_simulated("--port", str(port), "--load-s", "1.5")
    try:
        assert process.stdout is not None
        assert process.poll() is None
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/health")
        assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        stderr.close()


def test_a_port_that_is_taken_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run("--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: cannot listen on 127.0.0.1:")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [("--no-such-flag",), ("--max-num-seqs", "0"), ("--fault", "{"), ("--constants", "/nowhere.toml")],
)
def test_bad_arguments_are_exit_2(flags: tuple[str, ...]) -> None:
    ended = run("--port", "0", *flags)
    assert ended.returncode == 2
    assert "Error: " in ended.stderr


def test_a_start_can_be_refused_and_slowed() -> None:
    begun = time.monotonic()
    slow = json.dumps({"kind": "slow_start", "seconds": 0.6})
    refused = json.dumps({"kind": "refuse_to_start", "message": "no weights here"})
    ended = run("--port", "0", "--load-s", "0", "--fault", refused)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, "error: no weights here")
    begun = time.monotonic()
    with simulated_engine("--fault", slow):
        assert time.monotonic() - begun > 0.6


def test_a_client_that_leaves_a_stream_or_a_whole_reply_is_aborted() -> None:
    with simulated_engine() as engine, httpx.Client(base_url=engine.url) as client:
        with client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as reply:
            pieces = reply.iter_raw()
            next(pieces)
            assert engine.state(running=1)["blocks_used"] > 0
        engine.state(inflight=0, aborted=1, blocks_used=0, open=0)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=LONG | {"n": 2}, timeout=0.15)
        state = engine.state(inflight=0, aborted=3, blocks_used=0, open=0)
        assert (state["requests_seen"], state["max_inflight_seen"], state["finished"]) == (2, 2, 0)
        assert engine.metric("vllm:request_success_total", finished_reason="abort") == 3


def test_client_that_leaves_behind_a_long_body_is_aborted() -> None:
    """uvicorn stops reading at 64 KiB: where the body's end came with such a piece, nobody read on and saw the end."""
    prompt = "word" * 120_000  # its prefill takes minutes at eight tokens a step
    body = json.dumps({"model": "headgate-simulated", "prompt": prompt}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    flags = ("--max-model-len", "262144", "--max-num-batched-tokens", "8", "--num-gpu-blocks", "32768")
    with simulated_engine(*flags) as engine:
        for aborted in range(1, 9):
            with socket.create_connection(("127.0.0.1", engine.port)) as client:
                client.sendall(head % len(body) + b"expect: 100-continue\r\n\r\n")
                assert client.recv(64).startswith(b"HTTP/1.1 100")  # it waits for the body, which comes in few pieces
                client.sendall(body)
                engine.state(running=1)
            engine.state(inflight=0, open=0, aborted=aborted)


def test_no_more_run_than_max_num_seqs_and_the_others_wait() -> None:
    with simulated_engine("--max-num-seqs", "3") as engine, httpx.Client(base_url=engine.url) as client:
        body = LONG | {"n": 5, "stream": True}
        with client.stream("POST", "/v1/completions", json=body):
            state = engine.state(running=3, waiting=2)
            assert engine.metric("vllm:num_requests_running") == 3
            assert engine.metric("vllm:num_requests_waiting") == 2
        assert (state["max_running_seen"], state["max_inflight_seen"], state["max_open_seen"]) == (3, 5, 1)
        engine.state(inflight=0, aborted=5)
        whole = client.post("/v1/completions", json={"prompt": ["a"] * 5, "max_tokens": 9}).json()
        assert whole["usage"]["completion_tokens"] == 45
        assert engine.state(inflight=0)["max_running_seen"] == 3


def test_metrics_add_up() -> None:
    with simulated_engine("--speed", "10") as engine, httpx.Client(base_url=engine.url) as client:
        body = {"prompt": "x" * 400, "max_tokens": 20}
        first, second = (client.post("/v1/completions", json=body).json() for _ in range(2))
        client.post("/v1/embeddings", json={"input": "x" * 40})
        assert first["usage"]["prompt_tokens_details"] is None
        assert second["usage"]["prompt_tokens_details"] == {"cached_tokens": 96}
        labels = {"model_name": "headgate-simulated", "engine": "0"}
        expected = {
            "prompt_tokens_total": 210,
            "generation_tokens_total": 40,
            "prefix_cache_queries_total": 210,
            "prefix_cache_hits_total": 96,
            "num_preemptions_total": 0,
            "kv_cache_usage_perc": 0,
            "num_requests_running": 0,
            "num_requests_waiting": 0,
            "time_to_first_token_seconds_count": 2,
            "inter_token_latency_seconds_count": 38,
            "request_time_per_output_token_seconds_count": 3,
            "e2e_request_latency_seconds_count": 3,
            "request_queue_time_seconds_count": 3,
            "request_prefill_time_seconds_count": 3,
            "request_decode_time_seconds_count": 3,
            "request_prompt_tokens_sum": 210,
            "request_generation_tokens_sum": 40,
            "iteration_tokens_total_count": 41,
            "iteration_tokens_total_sum": 210 - 96 + 38,
        }
        assert {name: engine.metric(f"vllm:{name}", **labels) for name in expected} == expected
        assert engine.metric("vllm:request_success_total", finished_reason="length") == 2
        assert engine.metric("vllm:engine_sleep_state", sleep_state="awake") == 1
        assert engine.metric("vllm:num_requests_waiting_by_reason", reason="capacity") == 0
        sizes = {"num_gpu_blocks": "4096", "block_size": "16", "kv_cache_size_tokens": "65536"}
        assert engine.metric("vllm:cache_config_info", kv_cache_max_concurrency="16.00", **sizes) == 1


def test_tokens_come_at_the_pace_that_the_constants_say() -> None:
    flags = ("--base-s", "0.005", "--per-sequence-s", "0", "--per-prefill-token-s", "0")
    with simulated_engine(*flags) as engine:
        begun = time.monotonic()
        httpx.post(f"{engine.url}/v1/completions", json={"prompt": "a", "max_tokens": 100})
        taken_s = time.monotonic() - begun
        counted = engine.metric("vllm:request_decode_time_seconds_sum")
    assert counted == pytest.approx(99 * 0.005, rel=0.001), "steps are booked when due, not when noticed"
    assert 0.49 < taken_s < 5


def test_drawn_lengths_end_answers_by_themselves_unless_told_to_go_on() -> None:
    with simulated_engine("--draw-lengths", "20", "--speed", "50") as engine:
        with httpx.Client(base_url=engine.url) as client:
            prompts = [f"prompt {i}" for i in range(40)]
            body = {"prompt": prompts, "max_tokens": 60}
            one, again = (client.post("/v1/completions", json=body).json() for _ in range(2))
            assert one["choices"] == again["choices"]
            assert {choice["finish_reason"] for choice in one["choices"]} == {"stop", "length"}
            forced = client.post("/v1/completions", json=body | {"ignore_eos": True}).json()
        assert forced["usage"]["completion_tokens"] == 40 * 60 > one["usage"]["completion_tokens"]


def test_sleeping_aborts_what_runs_and_keeps_what_comes_for_later() -> None:
    with simulated_engine("--enable-sleep-mode") as engine, httpx.Client(base_url=engine.url) as client:
        with ThreadPoolExecutor() as pool:
            running = pool.submit(httpx.post, f"{engine.url}/v1/completions", json=LONG, timeout=20)
            engine.state(running=1)
            assert client.post("/sleep", params={"level": 1}).status_code == 200
            cut = running.result().json()
            assert cut["choices"][0]["finish_reason"] == "abort"
            assert cut["usage"]["completion_tokens"] < 3000
            assert client.get("/is_sleeping").json() == {"is_sleeping": True}
            assert engine.metric("vllm:engine_sleep_state", sleep_state="weights_offloaded") == 1
            body = {"prompt": "later", "max_tokens": 3}
            kept = pool.submit(httpx.post, f"{engine.url}/v1/completions", json=body, timeout=20)
            engine.state(waiting=1)
            assert client.post("/wake_up").status_code == 200
            assert kept.result().json()["usage"]["completion_tokens"] == 3
        assert client.get("/is_sleeping").json() == {"is_sleeping": False}


def test_level_2_talks_nonsense_until_its_weights_are_loaded_again() -> None:
    flags = ("--enable-sleep-mode", "--speed", "10")
    with simulated_engine(*flags) as engine, httpx.Client(base_url=engine.url) as client:

        def say() -> str:
            reply = client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3}).json()
            words: str = reply["choices"][0]["text"]
            return words

        before = say()
        client.post("/sleep", params={"level": 2})
        assert engine.metric("vllm:engine_sleep_state", sleep_state="discard_all") == 1
        client.post("/wake_up", params={"tags": "weights"})
        assert client.get("/is_sleeping").json() == {"is_sleeping": True}
        client.post("/wake_up", params={"tags": "kv_cache"})
        assert say() == " !!! !!! !!!"
        assert client.post("/collective_rpc", json={"method": "reload_weights"}).status_code == 200
        assert say() == before


@pytest.mark.parametrize("stream", [True, False])
def test_sigterm_ends_what_runs_at_once_with_abort(stream: bool) -> None:
    with simulated_engine() as engine, ThreadPoolExecutor() as pool:
        body = LONG | {"stream": stream}
        running = pool.submit(httpx.post, f"{engine.url}/v1/completions", json=body, timeout=20)
        engine.state(running=1)
        engine.process.send_signal(signal.SIGTERM)
        reply = running.result()
        assert reply.status_code == 200
        assert '"finish_reason":"abort"' in reply.text
        assert reply.text.endswith("data: [DONE]\n\n") == stream
        assert engine.process.wait(5) == 0


@pytest.mark.parametrize("stream", [True, False])
def test_sigterm_ends_a_message_with_no_reason_why_it_stops(stream: bool) -> None:
    with simulated_engine() as engine, ThreadPoolExecutor() as pool:
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4000, "stream": stream}
        running = pool.submit(httpx.post, f"{engine.url}/v1/messages", json=body, timeout=20)
        engine.state(running=1)
        engine.process.send_signal(signal.SIGTERM)
        reply = running.result()
        assert '"stop_reason":null' in reply.text.rpartition("message_delta")[2]


def test_sigterm_with_a_timeout_finishes_what_runs_and_refuses_the_rest_with_500() -> None:
    with simulated_engine("--shutdown-timeout", "10") as engine, ThreadPoolExecutor() as pool:
        body = {"prompt": "a", "max_tokens": 20}
        engine.faults({"kind": "hang"})
        running = pool.submit(httpx.post, f"{engine.url}/v1/completions", json=body, timeout=20)
        engine.state(inflight=1)
        engine.process.send_signal(signal.SIGTERM)
        engine.state(draining=1)
        refused = httpx.post(f"{engine.url}/v1/completions", json=body)
        assert refused.status_code == 500
        assert refused.json()["error"]["message"] == "cannot schedule new futures after shutdown"
        assert httpx.get(f"{engine.url}/health").status_code == 200
        engine.clear_faults()
        assert running.result().json()["usage"]["completion_tokens"] == 20
        assert engine.process.wait(5) == 0


def test_idle_connections_are_closed_after_the_environments_keep_alive() -> None:
    with simulated_engine(env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "1"}) as engine:
        with socket.create_connection(("127.0.0.1", engine.port), timeout=5) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            begun = time.monotonic()
            assert sock.recv(1) == b""
        assert 0.8 < time.monotonic() - begun < 4.5


def test_static_batching_serves_batch_after_batch() -> None:
    with simulated_engine("--batching", "static", "--speed", "10") as engine, ThreadPoolExecutor() as pool:
        url = f"{engine.url}/v1/completions"
        first = pool.submit(httpx.post, url, json=LONG, timeout=20)
        engine.state(running=1)
        engine.faults({"kind": "hang"})
        later = pool.submit(httpx.post, url, json={"prompt": "b", "max_tokens": 1}, timeout=20)
        engine.state(running=1, waiting=1)
        engine.clear_faults()
        assert first.result().status_code == later.result().status_code == 200
        assert engine.state(inflight=0)["max_running_seen"] == 1
