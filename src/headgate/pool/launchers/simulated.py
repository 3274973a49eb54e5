"""The simulated engine as a supervised process: the whole path with no GPU and no model.

It is started like any other engine, in a process of its own, so that what holds for it holds for vLLM. It
ends at a ``Launch``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field

from headgate.pool.launchers import (
    KEY_VARIABLE,
    LOOPBACK,
    Address,
    Launch,
    LoadProgress,
    free_port,
    made_key,
    options,
    whole_number,
)
from headgate.pool.launchers.vllm import KEY_IN_ARGS, history_key

STOP_GRACE_S = 5.0

_LOADING = re.compile(r"Loading weights +(\d+)%")


@dataclass(frozen=True, slots=True)
class SimulatedLauncher:
    """Starts ``python -m headgate.simulator``; what is None is left to the simulator, but for the key: one is made.

    Raises:
        ValueError: the key is among the arguments.
    """

    model_name: str | None = None
    max_num_seqs: int | None = None
    args: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if options(self.args, "--api-key") is not None:
            raise ValueError(f"ENGINE_ARGS cannot contain --api-key: {KEY_IN_ARGS}. Leave it out.")

    def __call__(self) -> Launch:
        """The next start, on a fresh port."""
        port, key = free_port(), self.api_key or made_key()
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
            env={"PYTHONUNBUFFERED": "1", KEY_VARIABLE: key},
            model_names=tuple(options(given, "--model-name") or ()),
            max_num_seqs=whole_number(given, "--max-num-seqs"),
            stop_grace_s=STOP_GRACE_S,
            api_key=key,
            key_is_made=self.api_key is None,
            history_key=history_key("simulated", self.model_name or "", self.args),
            read_line=read_line,
        )


def read_line(line: str) -> LoadProgress | None:
    """What a line of its log says about its start; None for all the others."""
    found = _LOADING.search(line)
    return LoadProgress("loading weights", int(found[1]) / 100, line) if found else None
