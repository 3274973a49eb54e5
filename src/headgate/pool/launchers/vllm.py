"""``vllm serve`` as a supervised process: its command line, its environment, and what its log lines mean.

The arguments that were given are passed through unchanged, but for those that would move the engine away from
where the gateway looks for it. It ends at a ``Launch``.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

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
from headgate.pool.statement import VLLM_MAX_NUM_SEQS

STOP_GRACE_S = 15.0
KEY_IN_ARGS = "every user of the machine could read it there; ENGINE_API_KEY is the engine's, else one is made"

_RESERVED = {
    "--host": "the engine listens on loopback only; HOST and PORT are the gateway's",
    "--port": "the engine gets a free port at each start; PORT is the gateway's",
    "--uds": "the gateway reaches the engine over TCP",
    "--api-key": KEY_IN_ARGS,
    "--ssl-keyfile": "the gateway speaks plain HTTP to an engine on loopback",
    "--ssl-certfile": "the gateway speaks plain HTTP to an engine on loopback",
    "--headless": "an engine with no HTTP cannot be reached",
}

_ENV = {
    # The server's own 5 s would close connections that the relay keeps.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
    # vLLM renames its processes, which overwrites the environment that leftovers are recognised by.
    "SPT_NOENV": "1",
}

_PERCENT = re.compile(r"\b(\d{1,3})%(?:\||\s+Completed)")
_PHASES = (
    ("downloading", re.compile(r"Downloading|Fetching \d+ files|Time spent downloading")),
    ("loading weights", re.compile(r"Starting to load model|Loading \w+ checkpoint shards|loading shards:")),
    ("weights loaded", re.compile(r"Loading weights took|Model loading took")),
    ("capturing CUDA graphs", re.compile(r"Capturing CUDA graph|Graph capturing finished")),
    ("compiling", re.compile(r"torch\.compile t|Dynamo bytecode transform|Compiling a graph")),
    ("making the KV cache", re.compile(r"KV cache size:|Available KV cache memory")),
    ("opening the server", re.compile(r"Starting vLLM (?:API )?server|Application startup complete")),
)


@dataclass(frozen=True, slots=True)
class VllmLauncher:
    """Starts ``command serve model …``.

    Args:
        model: a model id or a path.
        served_model_names: the names it is served under; the model's own where there is none.
        args: passed through unchanged.
        command: the executable, as a shell would read it.
        api_key: the key that it is to ask for; None: one is made at each start.

    Raises:
        ValueError: an argument would move the engine away from the gateway, or the command cannot be read.
    """

    model: str
    served_model_names: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    command: str = "vllm"
    stop_grace_s: float = STOP_GRACE_S
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        words(self.command)
        for arg in self.args:
            flag = arg.partition("=")[0].replace("_", "-")
            if arg.startswith("--") and flag in _RESERVED:
                raise ValueError(f"ENGINE_ARGS cannot contain {flag}: {_RESERVED[flag]}. Leave it out.")

    def __call__(self) -> Launch:
        """The next start, on a fresh port."""
        port, key = free_port(), self.api_key or made_key()
        names = ("--served-model-name", *self.served_model_names) if self.served_model_names else ()
        argv = (
            *(find_executable(self.command) or words(self.command)),
            *("serve", self.model, "--host", LOOPBACK, "--port", str(port)),
            # A line for each of our own looks at /metrics would bury what the engine has to say.
            "--disable-uvicorn-access-log",
            *names,
            *self.args,
        )
        return Launch(
            kind="vllm",
            address=Address(LOOPBACK, port),
            argv=argv,
            env={**_ENV, KEY_VARIABLE: key},
            model_names=tuple(options((*names, *self.args), "--served-model-name") or (self.model,)),
            max_num_seqs=whole_number(self.args, "--max-num-seqs") or VLLM_MAX_NUM_SEQS,
            stop_grace_s=self.stop_grace_s,
            api_key=key,
            key_is_made=self.api_key is None,
            history_key=history_key("vllm", self.model, self.args),
            read_line=read_line,
        )


def words(command: str) -> tuple[str, ...]:
    """The words of a command line.

    Raises:
        ValueError: it is empty, or a quotation is not closed.
    """
    try:
        found = tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(f"ENGINE_COMMAND {command!r} cannot be read: {error}. Quote it as a shell would.") from None
    if not found:
        raise ValueError("ENGINE_COMMAND is empty. Name the executable, or leave it out for vllm.")
    return found


def find_executable(command: str) -> tuple[str, ...] | None:
    """The command with its executable found on the path, or beside this Python; None where there is none.

    Beside this Python, since a gateway is often started by its full path out of an environment nobody
    activated.
    """
    first, *others = words(command)
    found = shutil.which(first) or shutil.which(first, path=str(Path(sys.executable).parent))
    return None if found is None else (found, *others)


def history_key(kind: str, model: str, args: tuple[str, ...]) -> str:
    """Equal for starts of the same model with the same arguments."""
    digest = hashlib.sha256("\0".join(args).encode()).hexdigest()[:12]
    return f"{kind}:{model}:{digest}"


def read_line(line: str) -> LoadProgress | None:
    """What a line of vLLM's log says about its start; None for all the others."""
    for phase, pattern in _PHASES:
        if pattern.search(line):
            percent = _PERCENT.search(line)
            fraction = min(1.0, int(percent[1]) / 100) if percent else None
            return LoadProgress(phase, fraction, line)
    return None
