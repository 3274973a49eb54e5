"""The GPU's figures through a running gateway, read from a stand-in of the driver's library."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pynvml
import pytest

from headgate.app import EXIT_CLEAN
from headgate.workbench.top.picture import Status
from tests.simulated import Engine
from tests.standins.nvml import Standin, standin
from tests.wire.gateway import Gateway, gateway, wait_until


@pytest.fixture
def nvml(tmp_path: Path) -> Standin:
    return standin(tmp_path)


def gpu_series(gate: Gateway) -> dict[str, float]:
    """All ``gpu_*`` samples, as they stand on the page."""
    lines = [line for line in gate.get("/metrics").text.splitlines() if line.startswith("gpu_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_every_figure_is_scraped_and_shown(engine: Engine, nvml: Standin) -> None:
    nvml.gpu(0, utilization=0, energy_mj=5_000_000).gpu(1, power_mw=612_500)
    with gateway(engine, env={**nvml.env, "CUDA_VISIBLE_DEVICES": "1"}) as gate:
        wait_until(lambda: gate.metric("gpu_available") == 1, "the GPU is read")
        uuid = "GPU-00000001-0000-0000-0000-000000000000"
        assert gpu_series(gate) == {
            "gpu_available": 1.0,
            f'gpu_info{{driver="570.133.07",gpu="1",name="NVIDIA H100 80GB HBM3",uuid="{uuid}"}}': 1.0,
            'gpu_utilization_ratio{gpu="1"}': 0.37,
            'gpu_memory_used_bytes{gpu="1"}': 60 * 2**30,
            'gpu_memory_total_bytes{gpu="1"}': 80 * 2**30,
            'gpu_temperature_celsius{gpu="1"}': 54.0,
            'gpu_power_watts{gpu="1"}': 612.5,
            'gpu_power_limit_watts{gpu="1"}': 700.0,
            'gpu_energy_joules_total{gpu="1"}': 1000.0,
        }
        [drawn] = msgspec.convert(gate.status(), Status).gpu.gpus
        assert (drawn.power_w, drawn.temperature_c, drawn.memory_total_bytes) == (612.5, 54.0, 80 * 2**30)
        [gpu] = gate.status()["gpu"]["gpus"]
        assert gpu == {
            "index": "1",
            "name": "NVIDIA H100 80GB HBM3",
            "utilization": 0.37,
            "memory_used_bytes": 60 * 2**30,
            "memory_total_bytes": 80 * 2**30,
            "temperature_c": 54.0,
            "power_w": 612.5,
            "power_limit_w": 700.0,
            "energy_j": 1000.0,
        }
        # and it goes on being read; a loss in the middle is told
        nvml.set({"1.utilization": 90, "1.power_mw": None})
        wait_until(lambda: gate.metric("gpu_utilization_ratio") == 0.9, "it is read again")
        assert 'gpu_power_watts{gpu="1"}' not in gpu_series(gate)
        nvml.fail("1.error", pynvml.NVML_ERROR_GPU_IS_LOST)
        wait_until(lambda: gate.metric("gpu_available") == 0, "the loss is told")
        assert "GPU 1 (NVIDIA H100 80GB HBM3)" in gate.status()["gpu"]["reason"]
        assert gpu_series(gate) == {"gpu_available": 0.0}
        assert gate.ask().status == 200


def test_a_driver_that_hangs_holds_up_neither_a_request_nor_a_scrape_nor_the_end(engine: Engine, nvml: Standin) -> None:
    with gateway(engine, env=nvml.gpu(0).set({"hang": 1}).env) as gate:
        assert gate.metric("gpu_available") == 0
        assert gate.status()["gpu"]["status"] == "unavailable"
        assert gate.ask().status == 200
        gate.process.send_signal(signal.SIGTERM)
        assert gate.exit_status(within_s=5.0) == EXIT_CLEAN


def test_with_no_gpu_that_is_all_that_is_said(engine: Engine, nvml: Standin) -> None:
    with gateway(engine, env=nvml.env) as gate:
        none = {"status": "unavailable", "reason": "the NVIDIA driver sees no GPU"}
        wait_until(lambda: gate.status()["gpu"] == none, "it has been looked for")
        assert gpu_series(gate) == {"gpu_available": 0.0}
