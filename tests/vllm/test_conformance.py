"""The conformance suite against a gateway with a real vLLM: what clients and vLLM's own gauges can show."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.vllm.conftest import StartGateway

pytestmark = pytest.mark.vllm

ROUNDS = 5
APPLY = {
    "cap-burst",
    "order",
    "refusal-status",
    "refusal-shape",
    "refusal-retry-after",
    *(f"leave-{stage}-{way}" for stage in ("queued", "streaming") for way in ("close", "half-close", "reset")),
}


def test_what_applies_is_kept_five_times_in_a_row(start_gateway: StartGateway) -> None:
    # A wait so long that no forecast is over it: who is turned away for that is not left waiting, and rightly so.
    gateway = start_gateway(max_active=4, queue_max=16, queue_timeout_s=120, queue_order="fifo")
    gateway.wait_ready()
    metrics = f"{gateway.url}/engines/e0/metrics"
    command = [sys.executable, "-m", "headgate", "conformance", gateway.url, "--engine-metrics", metrics]
    ran = subprocess.run(
        [*command, "--rounds", str(ROUNDS), "--json"], capture_output=True, text=True, timeout=400, check=False
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)["results"]
    kept = [result["case"] for result in results if result["verdict"] == "pass"]
    assert {case: kept.count(case) for case in APPLY} == dict.fromkeys(APPLY, ROUNDS), ran.stderr
