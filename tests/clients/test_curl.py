"""curl, as the documentation uses it."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.simulated import Engine, simulated_engine
from tests.tools import tool
from tests.wire.client import CHAT, chat, data_of
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.clients

REFUSED = 22
PARTIAL = 18
"""What curl exits with where the server's status is an error (--fail), and where a body lacks its end."""


def arguments(gate: Gateway, body: object, *flags: str) -> list[str]:
    return [
        tool("curl"),
        *("-sN", "--noproxy", "*", *flags),
        f"http://127.0.0.1:{gate.port}{CHAT}",
        *("-H", "content-type: application/json", "-d", json.dumps(body)),
    ]


@contextmanager
def curl(gate: Gateway, body: object, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(arguments(gate, body, *flags), stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_stream_is_printed_as_it_comes(gate: Gateway, engine: Engine) -> None:
    with curl(gate, chat(60_000)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"data: {")
        assert engine.state()["running"] == 1


def test_curl_that_is_interrupted_is_gone_from_the_engine(gate: Gateway, engine: Engine) -> None:
    aborted = engine.state()["aborted"]
    with curl(gate, chat(60_000)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        process.wait()
        engine.state(inflight=0, open=0, aborted=aborted + 1)
        gate.until(active=0)


def test_retry_comes_back_when_it_was_told(engine: Engine) -> None:
    """By itself it would come back after one second; it is told two."""
    with gateway(engine, "--max-active", "1", "--queue-mode", "reject") as gate:
        with gate.hold(1) as held:
            assert gate.ask().status == 429, "who was told one second"
            with curl(gate, chat(3), "--retry", "3", "--fail") as process:
                gate.until_counted(2, route=CHAT, status="429")
                refused_at = time.monotonic()
                held.close()
                said, _ = process.communicate()
        assert process.returncode == 0
        assert said.endswith(b"data: [DONE]\n\n")
        assert time.monotonic() - refused_at > 1.5
        assert gate.counted(status="429") == 2


def test_refusal_is_printed_and_is_an_exit_status(engine: Engine) -> None:
    with gateway(engine, "--max-active", "1", "--queue-mode", "reject") as gate, gate.hold(1):
        done = subprocess.run(arguments(gate, chat(), "--fail-with-body"), stdout=subprocess.PIPE, check=False)
        assert done.returncode == REFUSED
        assert json.loads(done.stdout)["error"]["code"] == "slots_busy"


def test_broken_stream_is_an_error_event_before_done(gate: Gateway, engine: Engine) -> None:
    """Its exit status is 0: who reads streams with curl has to look for the error."""
    engine.faults({"kind": "cut", "after_events": 5})
    done = subprocess.run(arguments(gate, chat(50)), stdout=subprocess.PIPE, check=True)
    *_, last, end = [event for event in done.stdout.split(b"\n\n") if event]
    assert data_of(last)["error"]["code"] == "engine_failed"
    assert end == b"data: [DONE]"


def test_broken_long_answer_is_an_exit_status() -> None:
    with simulated_engine(*ROOMY, "--speed", "200") as engine, gateway(engine) as gate:
        engine.faults({"kind": "cut"})
        whole = chat(4000, stream=False, n=40)
        done = subprocess.run(arguments(gate, whole), stdout=subprocess.PIPE, check=False)
        assert done.returncode == PARTIAL
