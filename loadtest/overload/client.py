"""The load of one run, in a process of its own: ``python -m loadtest.overload.client`` reads a `Task` on stdin.

It is the load of ``headgate bench`` (open loop, seeded, one event loop, a compiled HTTP parser) without its command
line; what it used of the processor and how late it was is in the raw file that it writes.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path

import msgspec

from headgate.workbench.bench import raw
from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.raw import Objective, Place, Plan
from headgate.workbench.bench.run import Job, measure
from headgate.workbench.bench.trace import Entry
from loadtest.overload import cores


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        outputs: each request's answer is as long as one of these, by chance.
        to_the_front: a real vLLM is behind (``cores``).
    """

    url: str
    model: str
    plan: Plan
    objectives: list[Objective]
    place: Place
    outputs: list[int]
    path: str
    to_the_front: bool = False
    command: str = ""


def entries(task: Task) -> list[Entry]:
    """The requests, more of them than can come; none where all are alike."""
    plan = task.plan
    if len(task.outputs) == 1:
        return []
    dice = random.Random(f"{plan.seed}/outputs")
    return [
        Entry(arrival_s=0.0, prompt_tokens=plan.input_tokens, output_tokens=dice.choice(task.outputs))
        for _ in range(plan.requests)
    ]


def go_first() -> None:
    """Before engine and gateway where they want the same core: this client's lateness would be in every figure."""
    with contextlib.suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def main() -> None:
    """Measure, and write the raw file."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    if not (task.to_the_front and cores.to_the_front(os.getpid(), cores.CLIENT)):
        go_first()
    job = Job(
        plan=task.plan,
        callers=[Caller()],
        objectives=task.objectives,
        entries=entries(task),
        model=task.model,
        command=task.command,
    )
    raw.write(Path(task.path), measure(job, task.url, None, task.place))


if __name__ == "__main__":
    main()
