"""Who runs where beside a real vLLM on two cores, the same for every target.

vLLM's worker and its EngineCore spin while they wait for each other. On a GPU box each has a core to spin on. Where two
cores are all there is they keep its API server, the gateway and the client from running for a second at a time: first
tokens are late by what the kernel's scheduler does, whoever stands in front, and no gate can mend that. So the worker
has core 0 to itself; API server, gateway and client share core 1 at real-time priorities: each runs when there is
something for it, as it would on a machine with cores to spare, the client first and then the gateway, which need little
at a time, while the API server goes through a whole batch of tokens in one piece. EngineCore has the rest.

Takes root. Without it, or with other than two cores, everybody runs where the kernel puts it.
"""

from __future__ import annotations

import os
from pathlib import Path

WORKER = "0"
"""For vLLM's ``VLLM_CPU_OMP_THREADS_BIND``."""
FRONT = {1}
SERVER, GATEWAY, CLIENT = 1, 2, 3
"""Real-time priorities, the last the highest."""


def two() -> bool:
    """Whether this is the machine that it is for."""
    return os.cpu_count() == 2


def first_in_line(process: int, priority: int) -> bool:
    """Give every thread of a process real-time priority; what it starts has it not. False where that is not allowed."""
    how = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setscheduler(int(task.name), how, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def to_the_front(process: int, priority: int) -> bool:
    """Put a running process, with all of its threads, there; False where that is not allowed."""
    if not two():
        return False
    for task in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(task.name), FRONT)
    return first_in_line(process, priority)
