"""The simulated engine as a supervised process: the whole path with no GPU and no model.

It is started like any other engine, in a process of its own, so that what holds for it holds for vLLM. It
ends at a ``Launch``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from headgate.pool.launchers import LOOPBACK, Address, Launch, LoadProgress, free_port, options, whole_number
from headgate.pool.launchers.vllm import history_key

STOP_GRACE_S = 5.0

_LOADING = re.compile(r"Loading weights +(\d+)%")


@dataclass(frozen=True, slots=True)
class SimulatedLauncher:
    """Starts ``python -m headgate.simulator``; what is None is left to the simulator."""

    model_name: str | None = None
    max_num_seqs: int | None = None
    args: tuple[str, ...] = ()

    def __call__(self) -> Launch:
        """The next start, on a fresh port."""
        port = free_port()
        given: list[str] = []
        if self.model_name is not None:
            given += ["--model-name", self.model_name]
        if self.max_num_seqs is not None:
            given += ["--max-num-seqs", str(self.max_num_seqs)]
        given += self.args
        listen = ("--host", LOOPBACK, "--port", str(port))
        return Launch(
            kind="simulated",
            address=Address(LOOPBACK, port),
            argv=(sys.executable, "-m", "headgate.simulator", *listen, *given),
            env={"PYTHONUNBUFFERED": "1"},
            model_names=tuple(options(given, "--model-name") or ()),
            max_num_seqs=whole_number(given, "--max-num-seqs"),
            stop_grace_s=STOP_GRACE_S,
            history_key=history_key("simulated", self.model_name or "", self.args),
            read_line=read_line,
        )


def read_line(line: str) -> LoadProgress | None:
    """What a line of its log says about its start; None for all the others."""
    found = _LOADING.search(line)
    return LoadProgress("loading weights", int(found[1]) / 100, line) if found else None
