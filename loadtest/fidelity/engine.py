"""A real vLLM on the CPU beside its client, on two cores.

vLLM's worker and its EngineCore spin while they wait for each other. On a GPU box each has a core to spin on; where two
cores are all there is, they keep the API server and the client from running, for a second at a time: streams came in
one piece, and the time to first token was that of the whole answer. So the worker gets a core, and the API server and
the client the other one, at a real-time priority: they run when there is something for them, which is what they would
do on a machine with cores to spare. That takes root; without it, the figures of two cores are not to be trusted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

MAKER = Path(__file__).parents[2] / "tests" / "vllm" / "make_model.py"
READY_WITHIN_S = 240.0
LIMITS = {"max_num_seqs": 16, "max_model_len": 8192}
LIMIT_FLAGS = ["--max-num-seqs=16", "--max-model-len=8192", "--num-gpu-blocks=8192", "--block-size=128"]
"""The same and the size of its KV cache of 1 GiB, for the simulated engine."""


def first_in_line(process: int, priority: int) -> bool:
    """Give every thread of a process real-time priority; what it starts has it not. False where that is not allowed."""
    how = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setscheduler(int(task.name), how, os.sched_param(priority))
    except PermissionError:
        return False
    return True


@contextmanager
def vllm(command: Path, folder: Path) -> Iterator[str]:
    """A running vLLM with the tests' tiny model; its URL."""
    model = folder / "tiny"
    subprocess.run([command.parent / "python", MAKER, model], check=True, timeout=120)
    port = 18_700 + os.getpid() % 200
    arguments: list[str | Path] = [
        *(command, "serve", model, "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *(f"--{name.replace('_', '-')}={value}" for name, value in LIMITS.items()),
    ]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(url, process, folder / "vllm.log")
        if os.cpu_count() == 2:
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {1})
        first_in_line(process.pid, 1)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    sys.exit(f"vLLM did not start:\n{log.read_text(errors='replace')[-2000:]}")
