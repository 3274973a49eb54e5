"""A gateway whose core others want takes events together, and every stream is whole all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.simulated import simulated_engine
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, gateway, wait_until

STREAMS = 100
LONG = 4_000
"""Tokens, at 50 a second: longer than it takes to see all of it."""
STEADY = ("--base-s", "0.02", "--per-sequence-s", "0", "--per-prefill-token-s", "0", "--speed", "1")
WITHIN_S = 40.0


@contextmanager
def one_more_on_its_core(gate: Gateway) -> Iterator[None]:
    """Somebody who computes without a pause on the gateway's core, and has nine tenths of it."""
    core = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(gate.process.pid, core)
    os.setpriority(os.PRIO_PROCESS, gate.process.pid, 10)
    greedy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(greedy.pid, core)
        yield
    finally:
        greedy.kill()
        greedy.wait()


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="only Linux tells who waits for a core")
def test_streams_are_whole_where_events_are_taken_together() -> None:
    with (
        simulated_engine("--max-num-seqs", "256", "--num-gpu-blocks", "65536", *STEADY) as engine,
        gateway(engine, "--max-active", "200") as gate,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(gate.client()).post(CHAT, chat(LONG)) for _ in range(STREAMS)]
        gate.until(active=STREAMS)
        with one_more_on_its_core(gate):
            wait_until(lambda: gate.metric("api_coalescing") == 1, "events are taken together", WITHIN_S)
            with gate.client() as short:
                answer = short.ask(CHAT, chat(20))
            assert answer.ended
            assert len([chunk for chunk in answer.data if chunk["choices"][0]["delta"].get("content")]) == 20
            for client in clients:
                assert len(client.until_events(100).data) >= 99
        for client in clients:
            client.close()
        gate.until(active=0)
        wait_until(lambda: gate.metric("api_coalescing") == 0, "nothing is put off any more")
        engine.state(inflight=0)


def test_can_be_switched_off() -> None:
    with simulated_engine() as engine, gateway(engine, "--coalesce-ms", "off") as gate:
        assert gate.metric("api_coalescing") == 0
        with gate.client() as client:
            assert client.ask(CHAT, chat(5)).ended
