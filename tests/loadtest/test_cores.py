"""Who runs where beside a real vLLM on two cores, seen in the kernel's own words about a process."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from loadtest.overload import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

BESIDE = "import sys, threading; t = threading.Thread(target=sys.stdin.read); t.start(); print(flush=True); t.join()"
"""A process of two threads that lives until its input ends."""


@contextmanager
def beside() -> Iterator[int]:
    """Its number."""
    with subprocess.Popen([sys.executable, "-c", BESIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def threads(process: int) -> list[int]:
    return [int(task) for task in os.listdir(f"/proc/{process}/task")]


def test_every_thread_is_put_on_the_front_core_and_before_others() -> None:
    if not cores.two():
        pytest.skip("it is for machines of two cores")
    with beside() as process:
        if not cores.to_the_front(process, cores.GATEWAY):
            pytest.skip("no right to real-time priority")
        assert len(threads(process)) == 2
        for thread in threads(process):
            assert os.sched_getaffinity(thread) == cores.FRONT
            assert os.sched_getscheduler(thread) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            assert os.sched_getparam(thread).sched_priority == cores.GATEWAY


def test_elsewhere_everybody_stays_where_the_kernel_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    with beside() as process:
        before = os.sched_getaffinity(process)
        assert not cores.to_the_front(process, cores.GATEWAY)
        assert os.sched_getaffinity(process) == before
        assert os.sched_getscheduler(process) == os.SCHED_OTHER


def test_client_goes_before_the_gateway_and_that_before_the_api_server() -> None:
    assert cores.CLIENT > cores.GATEWAY > cores.SERVER
    assert cores.WORKER not in {str(core) for core in cores.FRONT}, "the worker has the other core to itself"
