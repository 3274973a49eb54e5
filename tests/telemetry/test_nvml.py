"""The driver's library as it is really called: through ctypes, in a process that finds the stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from headgate.telemetry.nvml import visible
from tests.standins.nvml import GIB, Standin, standin

READ = """
import dataclasses, json
from headgate.telemetry.nvml import Driver, Unavailable
import os
driver = Driver(os.environ.get("CUDA_VISIBLE_DEVICES"))
try:
    driver.open()
    print(json.dumps({"driver": driver.version, "gpus": [dataclasses.asdict(gpu) for gpu in driver.read()]}))
except Unavailable as error:
    print(json.dumps({"reason": str(error)}))
driver.close()
"""


def read(env: dict[str, str], **more: str | None) -> dict[str, Any]:
    """What the driver says to a process with this environment."""
    given = {name: value for name, value in {**os.environ, **env, **more}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=given, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture
def nvml(tmp_path: Path) -> Standin:
    return standin(tmp_path)


def test_a_gpu_is_read_whole(nvml: Standin) -> None:
    nvml.gpu(0, memory_reserved=GIB, energy_mj=2**40)
    assert read(nvml.env) == {
        "driver": "570.133.07",
        "gpus": [
            {
                "index": "0",
                "uuid": "GPU-00000000-0000-0000-0000-000000000000",
                "name": "NVIDIA H100 80GB HBM3",
                "utilization": 0.37,
                "memory_used_bytes": 60 * GIB,
                "memory_total_bytes": 80 * GIB,
                "temperature_c": 54,
                "power_w": 350.0,
                "power_limit_w": 700.0,
                "energy_j": 2**40 / 1e3,
                "failure": None,
            }
        ],
    }


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_a_field_that_a_gpu_does_not_report_is_none_and_the_rest_stays(nvml: Standin, code: int) -> None:
    nvml.gpu(0).fail("0.power_mw", code).fail("0.utilization", code).fail("0.memory_total", code)
    [gpu] = read(nvml.env)["gpus"]
    assert (gpu["power_w"], gpu["utilization"], gpu["memory_used_bytes"], gpu["failure"]) == (None, None, None, None)
    assert (gpu["temperature_c"], gpu["energy_j"]) == (54, 1000.0)


def test_a_lost_gpu_keeps_its_place_with_the_reason(nvml: Standin) -> None:
    nvml.gpu(0).gpu(1).fail("1.error", pynvml.NVML_ERROR_GPU_IS_LOST)
    well, lost = read(nvml.env)["gpus"]
    assert (well["index"], well["failure"]) == ("0", None)
    assert (lost["index"], lost["temperature_c"]) == ("1", None)
    assert "GPU is lost" in lost["failure"]


def test_a_gpu_that_is_lost_when_it_is_looked_for_is_told_too(nvml: Standin) -> None:
    nvml.gpu(0).fail("0.handle", pynvml.NVML_ERROR_GPU_IS_LOST)
    [lost] = read(nvml.env)["gpus"]
    assert "GPU is lost" in lost["failure"]


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, ["0", "1", "2"]),
        ("1", ["1"]),
        ("2,0", ["2", "0"]),
        ("GPU-00000001", ["1"]),
        ("0, GPU-00000002-0000-0000-0000-000000000000", ["0", "2"]),
        ("0,7,1", ["0"]),
        ("0,-1,1", ["0"]),
        ("1,1", ["1"]),
    ],
)
def test_cuda_visible_devices_narrows_to_the_engines_gpus(nvml: Standin, chosen: str | None, seen: list[str]) -> None:
    nvml.gpu(0).gpu(1).gpu(2)
    assert [gpu["index"] for gpu in read(nvml.env, CUDA_VISIBLE_DEVICES=chosen)["gpus"]] == seen


@pytest.mark.parametrize("chosen", ["", "-1", "GPU-", "GPU-ff", "none"])
def test_a_choice_that_names_no_gpu_is_said_to_hide_them(nvml: Standin, chosen: str) -> None:
    nvml.gpu(0).gpu(1)
    said = read(nvml.env, CUDA_VISIBLE_DEVICES=chosen)
    assert said == {"reason": f"CUDA_VISIBLE_DEVICES={chosen} names none of the 2 GPUs here"}


def test_a_slice_of_a_gpu_is_read_by_its_own_name(nvml: Standin) -> None:
    nvml.gpu(0, utilization=None).set(
        {
            "0:1.uuid": "MIG-5c89852c",
            "0:1.name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "0:1.memory_total": 10 * GIB,
            "0:1.memory_used": 7 * GIB,
        }
    )
    [slice_] = read(nvml.env, CUDA_VISIBLE_DEVICES="MIG-5c89852c")["gpus"]
    assert (slice_["index"], slice_["memory_used_bytes"], slice_["power_w"]) == ("0:1", 7 * GIB, None)
    assert "names none" in read(nvml.env, CUDA_VISIBLE_DEVICES="MIG-other")["reason"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "a reboot mends it"),
        (pynvml.NVML_ERROR_UNKNOWN, "the NVIDIA driver says: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_work_says_why(nvml: Standin, code: int, words: str) -> None:
    assert words in read(nvml.gpu(0).fail("init", code).env)["reason"]


def test_no_gpu_and_no_driver_are_told_apart(nvml: Standin, tmp_path: Path) -> None:
    assert read(nvml.env)["reason"] == "the NVIDIA driver sees no GPU"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        assert "no NVIDIA driver is installed here" in read({})["reason"]


def test_a_uuid_that_is_cut_short_must_be_one_gpus() -> None:
    assert visible("GPU-aa", {0: "GPU-aab", 1: "GPU-aac"}) == []
    assert visible("GPU-aac", {0: "GPU-aab", 1: "GPU-aac"}) == [1]
