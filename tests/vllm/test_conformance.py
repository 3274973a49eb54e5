"""The conformance suite against Headgate with a real vLLM behind it, judged by that one's gauges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtest.overload import cores
from tests.vllm.running import MODEL

if TYPE_CHECKING:
    from tests.vllm.conftest import StartGateway

pytestmark = pytest.mark.vllm

APPLY = (
    *("cap-burst", "order", "longest-wait", "refusal-status", "refusal-shape", "refusal-retry-after", "retry-honest"),
    *(f"leave-{stage}-{way}" for stage in ("queued", "streaming") for way in ("close", "half-close", "reset")),
)
"""Those that need no engine that fails when it is told to."""
WITHIN_S = 240.0


def test_headgate_keeps_all_that_applies_to_a_real_vllm(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        max_active=4, queue_max=16, queue_timeout_s=5, request_timeout_s=60, queue_order="fifo", drain_timeout_s=5
    )
    gateway.wait_ready()
    if not gateway.to_the_front():
        pytest.skip("no right to real-time priority, and vLLM's spinning processes have both cores")
    engine = gateway.status()["engines"][0]["url"]
    command = (sys.executable, "-m", "headgate", "conformance", gateway.url, "--engine-metrics", engine)
    ran = subprocess.run(
        [*command, "--model", MODEL, "--patience", "40", "--only", ",".join(APPLY), "--json"],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
        preexec_fn=(lambda: cores.first_in_line(os.getpid(), cores.CLIENT)) if cores.two() else None,
    )
    assert ran.returncode == 0, ran.stderr
    verdicts = {result["case"]: result["verdict"] for result in json.loads(ran.stdout)["results"]}
    assert verdicts == dict.fromkeys(APPLY, "pass"), ran.stderr
