"""The stacks with a GPU, as far as they run where there is none: their own files, with vLLM's image stood in for.

The stand-in's ``vllm`` is the simulated engine (``standins/vllm``), and the engine takes reservations of GPUs without
having any. So what is shown is the stack's own part: the image on top of vLLM's, the user, the mounts, the supervising,
the end. Not vLLM, nor a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from headgate import __version__
from tests.compose import bases
from tests.compose import stack as stacks
from tests.compose.engine import Engine
from tests.compose.stack import Stack
from tests.compose.test_images import IMPORTED_TO_BUILD, RUN_TO_BUILD, WHERE_THE_ROAD_IS, inside

pytestmark = pytest.mark.compose

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture(scope="module")
def images(docker: Engine) -> Engine:
    bases.make_vllm(docker, "headgate:local")
    for target, tag in (("gateway", "headgate-gpu:local"), ("engine", "headgate-vllm:local")):
        bases.build(docker, "--file=compose/Dockerfile.gpu", f"--target={target}", f"--tag={tag}", str(bases.ROOT))
    return docker


@pytest.fixture(scope="module", params=["gpu", "remote"])
def stack(images: Engine, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    made = stacks.make(images, tmp_path_factory.mktemp("stack"), request.param)
    try:
        made.up()
        made.wait_ready()
        yield made
    finally:
        made.down()


def engine_of(stack: Stack) -> str:
    """The service whose container the engine runs in."""
    return "vllm" if "vllm" in stack.health() else "gateway"


def test_road_beside_vllm_is_compiled_and_its_builder_stays_behind(images: Engine) -> None:
    assert inside(images, "headgate-gpu:local", "python", "-c", WHERE_THE_ROAD_IS).endswith(".so")
    assert inside(images, "headgate-gpu:local", "headgate", "--version") == f"headgate {__version__} (compiled)"
    assert inside(images, "headgate-gpu:local", "python", "-c", IMPORTED_TO_BUILD) == "[]"
    assert "/opt/build" not in inside(images, "headgate-gpu:local", "python", "-c", RUN_TO_BUILD)


def test_whole_stack_comes_up_healthy_and_smoke_finds_nothing_wrong(stack: Stack) -> None:
    assert "dcgm-exporter" in stack.health()
    said = stack.script("smoke.sh")
    assert "FAIL" not in said
    assert f"serves {MODEL}" in said
    assert "scrapes the GPUs" in said


def test_nobody_goes_past_the_gate(stack: Stack) -> None:
    if engine_of(stack) != "vllm":
        pytest.skip("its engine listens on loopback, inside the gateway's container")
    asked = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://vllm:8000/v1/models")
    assert stack.inside("grafana", *asked) == "401"


def test_gpus_are_reserved_for_the_engine_and_the_exporter(stack: Stack) -> None:
    for service in (engine_of(stack), "dcgm-exporter"):
        host = stack.inspect(service)["HostConfig"]
        (wanted,) = host["DeviceRequests"]
        assert (wanted["Driver"], wanted["Count"], wanted["Capabilities"]) == ("nvidia", -1, [["gpu"]]), service
        assert (host["ShmSize"] > 1024**3) == (service == engine_of(stack))


def test_engine_runs_without_powers_and_its_caches_are_volumes(stack: Stack) -> None:
    service = engine_of(stack)
    assert stack.inside(service, "id", "-un") == "vllm"
    assert "CapEff:\t0000000000000000" in stack.inside(service, "cat", "/proc/1/status")
    mounts = {mount["Destination"]: mount["Name"] for mount in _volumes(stack, service)}
    assert mounts["/home/vllm/.cache/huggingface"].endswith("_models")
    assert mounts["/home/vllm/.cache"].endswith("_compile-cache")
    for written in ("vllm/compiled", "huggingface/hub/compiled", ".triton/compiled"):
        stack.inside(service, "test", "-x", f"/home/vllm/.cache/{written}")


def test_engine_that_is_killed_comes_back(stack: Stack) -> None:
    service = engine_of(stack)
    restarts = stack.inspect(service)["RestartCount"]
    stack.kill(service, "/opt/simulator/bin/python", _KILL_ENGINE)
    deadline_s = time.monotonic() + 60
    while stack.chat()[0] != 200:
        assert time.monotonic() < deadline_s, stack.compose("logs", "--tail=40", "gateway")
        time.sleep(0.2)  # a container: there is nothing to wait on but what it answers
    assert stack.inspect("gateway")["RestartCount"] == 0
    assert stack.inspect(service)["RestartCount"] == restarts + (service == "vllm")


def test_stop_is_clean(stack: Stack) -> None:
    stack.compose("stop")
    state = stack.inspect("gateway")["State"]
    assert state["ExitCode"] == 0


def _volumes(stack: Stack, service: str) -> list[dict[str, str]]:
    return [mount for mount in stack.inspect(service)["Mounts"] if mount["Type"] == "volume"]


_KILL_ENGINE = """
import os
for pid in filter(str.isdecimal, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if b"headgate.simulator" in file.read().split(b"\\0"):
            os.kill(int(pid), 9)
"""
