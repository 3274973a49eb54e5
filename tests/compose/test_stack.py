"""The stack without a GPU, run for real: built, started by health, used, hurt, stopped.

The gateway, Prometheus and Redis are the real ones; Grafana and Open WebUI are stood in for (``bases``).
"""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.compose import stack as stacks
from tests.compose.bases import pinned
from tests.compose.engine import Engine
from tests.compose.stack import Stack

pytestmark = pytest.mark.compose

MB = 1024**2
LARGEST_IMAGE = 120 * MB
"""What the gateway's image may add to Python's."""


@pytest.fixture(scope="module")
def stack(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = stacks.make(docker, tmp_path_factory.mktemp("stack"), "cpu")
    try:
        made.up()
        made.wait_ready()
        yield made
    finally:
        made.down()


def prometheus(stack: Stack, query: str) -> float | None:
    """The value of a query that has one series, None where it has none."""
    answer = json.loads(stack.get(f"/api/v1/query?query={urllib.parse.quote(query)}", "PROMETHEUS_PORT"))
    series = answer["data"]["result"]
    return float(series[0]["value"][1]) if series else None


def wait_for(stack: Stack, query: str, within_s: float = 30) -> None:
    """Until a query of Prometheus is true; it scrapes every five seconds."""
    deadline_s = time.monotonic() + within_s
    while prometheus(stack, query) is None:
        assert time.monotonic() < deadline_s, f"{query}: {stack.get('/api/v1/targets', 'PROMETHEUS_PORT')}"
        time.sleep(0.5)  # a process outside this one: there is nothing to wait on but what it says


def test_whole_stack_comes_up_healthy(stack: Stack) -> None:
    assert stack.health() == dict.fromkeys(("gateway", "prometheus", "grafana", "open-webui", "redis"), "healthy")


def test_chat_whole_and_streamed_goes_through_with_the_key_that_setup_made(stack: Stack) -> None:
    status, body = stack.chat()
    assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, 5)
    status, body = stack.chat(stream=True)
    assert status == 200
    assert body.endswith("data: [DONE]\n\n")
    assert body.count("data: {") >= 5


def test_check_says_in_a_container_like_the_gateways_what_will_work(stack: Stack) -> None:
    told = stack.compose("run", "--rm", "gateway", "check")
    assert "`headgate serve` would listen on 0.0.0.0:8080" in told


@pytest.mark.parametrize("key", ["", "wrong"])
def test_nobody_gets_in_without_the_key(stack: Stack, key: str) -> None:
    status, body = stack.chat(key=key)
    assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")


def test_prometheus_scrapes_the_gateway_and_the_engine_behind_it(stack: Stack) -> None:
    stack.chat()
    wait_for(stack, 'up{job="headgate"} == 1')
    wait_for(stack, 'up{job="vllm"} == 1')
    wait_for(stack, 'sum(api_requests_total{reason="ok"}) > 0')
    wait_for(stack, "sum(vllm:generation_tokens_total) > 0")


def test_gateway_runs_without_powers_on_a_root_it_cannot_write(stack: Stack) -> None:
    assert stack.inside("gateway", "id", "-u") == "2000"
    status = stack.inside("gateway", "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert stack.inside("gateway", "sh", "-c", "touch /opt/headgate/x /x 2>/dev/null || echo refused") == "refused"
    assert "starts.json" in stack.inside("gateway", "ls", "/var/lib/headgate"), "start-up times outlive the container"


def test_limits_of_memory_and_processes_reach_the_engine(stack: Stack) -> None:
    for service in stack.health():
        host = stack.inspect(service)["HostConfig"]
        assert host["Memory"] > 0, service
        assert 0 < host["PidsLimit"] < 10_000, service


def test_ports_are_open_on_loopback_alone(stack: Stack) -> None:
    for service in stack.health():
        network = stack.inspect(service)["NetworkSettings"]
        for published in network["Ports"].values():
            assert [port["HostIp"] for port in published or []] in ([], ["127.0.0.1"]), service


def test_image_is_small(docker: Engine) -> None:
    sizes = json.loads(docker.docker("inspect", "headgate:local", pinned()["python"]))
    assert sizes[0]["Size"] - sizes[1]["Size"] < LARGEST_IMAGE
    assert sizes[0]["Config"]["User"] == "2000:0"
    assert sizes[0]["Config"]["Labels"]["org.opencontainers.image.licenses"] == "MIT"


def test_redis_waits_behind_its_password(stack: Stack) -> None:
    assert stack.inside("redis", "redis-cli", "ping") == "PONG"
    assert "NOAUTH" in stack.inside("redis", "sh", "-c", "REDISCLI_AUTH= redis-cli ping 2>&1")


def test_smoke_finds_nothing_wrong_and_says_so(stack: Stack) -> None:
    said = stack.script("smoke.sh")
    assert "FAIL" not in said
    for what in ("without a key", "streamed", "Prometheus has seen", "Grafana reaches", "Open WebUI lives"):
        assert what in said
    assert stack.settings["HEADGATE_API_KEY"] not in said


def test_smoke_names_what_is_down(stack: Stack) -> None:
    stack.compose("stop", "prometheus")
    try:
        said = stack.script("smoke.sh", status=1)
    finally:
        stack.compose("start", "prometheus")
    assert "FAIL  Prometheus does not answer" in said
    assert "FAIL  Grafana does not reach Prometheus" in said
    assert "FAIL  the gateway" not in said


def test_benchmark_ends_by_itself_and_keeps_its_results(stack: Stack) -> None:
    given = ["--users", "8", "--requests", "40", "--input", "20", "--output", "20", "--duration", "20"]
    stack.compose("--profile", "benchmark", "run", "--rm", "-T", "benchmark", *given)
    assert stack.inside("gateway", "ls", "/var/lib/headgate/results")


def test_change_in_env_and_a_key_of_ones_own_count_after_up(stack: Stack) -> None:
    file = "/var/lib/headgate/keys.toml"
    made = json.loads(stack.inside("gateway", "headgate", "keys", "add", "alice", "--json", "--file", file))
    assert stack.chat(key=made["key"])[0] == 401
    with (stack.folder / ".env").open("a") as env:
        env.write(f"HEADGATE_API_KEYS_FILE={file}\nHEADGATE_MAX_ACTIVE=3\n")
    before = stack.inspect("prometheus")["Id"]
    stack.up()
    stack.wait_ready()
    assert stack.chat(key=made["key"])[0] == 200
    assert json.loads(stack.get("/status"))["slots"]["max_active"] == 3
    assert stack.inspect("prometheus")["Id"] == before, "what a change doesn't touch stays"


def test_gateway_that_is_killed_comes_back_and_prometheus_sees_it(stack: Stack) -> None:
    before = stack.inspect("gateway")
    # Inside, since a `docker kill` counts as asked for.
    stack.kill("gateway", "python3", _KILL_GATEWAY)
    deadline_s = time.monotonic() + 30
    while (after := stack.inspect("gateway"))["RestartCount"] == before["RestartCount"]:
        assert time.monotonic() < deadline_s, after["State"]
        time.sleep(0.2)  # a container: there is nothing to wait on but what the engine says
    stack.wait_ready()
    assert stack.chat()[0] == 200
    wait_for(stack, 'changes(process_start_time_seconds{job="headgate"}[5m]) > 0')


def test_engine_that_is_killed_is_started_again_in_the_same_container(stack: Stack) -> None:
    restarts = stack.inspect("gateway")["RestartCount"]
    engine = json.loads(stack.get("/status"))["engines"][0]["pid"]
    stack.inside("gateway", "python3", "-c", f"import os; os.kill({engine}, 9)")
    status, _ = stack.chat()
    assert status == 200, "who comes meanwhile waits"
    assert json.loads(stack.get("/status"))["engines"][0]["pid"] != engine
    assert stack.inspect("gateway")["RestartCount"] == restarts


def test_stopped_gateway_finishes_what_runs_and_leaves_with_0(stack: Stack) -> None:
    ended: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: ended.append(stack.chat(stream=True, max_tokens=300)))
    client.start()
    deadline_s = time.monotonic() + 20
    while json.loads(stack.get("/status"))["slots"]["active"] == 0:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)  # a process outside this one: there is nothing to wait on but what it says
    stack.compose("stop", "gateway")
    client.join(timeout=60)
    status, body = ended[0]
    assert status == 200
    assert body.endswith("data: [DONE]\n\n")
    assert '"error"' not in body
    state = stack.inspect("gateway")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_nothing_is_left_after_down(stack: Stack) -> None:
    stack.down()
    assert stack.health() == {}
    label = f"label=com.docker.compose.project={stacks.PROJECT}"
    assert stack.engine.docker("volume", "ls", "-q", "--filter", label) == ""


_KILL_GATEWAY = """
import os
for pid in filter(str.isdecimal, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if file.read().split(b"\\0")[1:2] == [b"/opt/headgate/bin/headgate"]:
            os.kill(int(pid), 9)
"""
