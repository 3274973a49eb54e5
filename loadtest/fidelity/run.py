"""From a real engine to a table: measure, fit, simulate, compare."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import msgspec

from headgate.workbench.bench import raw, slo
from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.raw import Plan
from headgate.workbench.bench.run import Job, measure
from headgate.workbench.compare.start import Engine, running
from headgate.workbench.compare.targets import Candidate
from loadtest.fidelity import engine, report
from loadtest.fidelity.loads import FITTED, HELD_OUT

WARM = Plan(users=8, input_tokens=100, output_tokens=60, requests=48)


def main() -> None:
    """All of it, or one of its halves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--vllm", type=Path, metavar="COMMAND", help="a vllm built for the CPU: started with a tiny model"
    )
    parser.add_argument("--url", help="a running engine instead, on a machine with cores to spare")
    parser.add_argument("--limits", default="", help="of the engine at --url: '--max-num-seqs 256'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--folder", type=Path, default=Path("results/fidelity"))
    parser.add_argument("--constants", type=Path, help="the file to write [FOLDER/constants.toml]")
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not engine.first_in_line(os.getpid(), 2):
        sys.stderr.write("No right to real-time priority: on two cores the engine will hold this client back.\n")
    real = folder / "real"
    if chosen.vllm or chosen.url:
        started = engine.vllm(chosen.vllm.absolute(), folder.absolute()) if chosen.vllm else nullcontext(chosen.url)
        with started as url:
            _rounds(url, {**FITTED, **HELD_OUT}, real, chosen.rounds, chosen.seconds)
    constants = chosen.constants or folder / "constants.toml"
    limits = shlex.split(chosen.limits) or engine.LIMIT_FLAGS
    given = sorted(real.glob("fit-*.jsonl"))
    if not given:
        parser.error(f"nothing was measured in {real} yet: give --vllm or --url")
    subprocess.run(
        [sys.executable, "-m", "headgate", "simulate", "--fit", *given, *limits, "--out", constants], check=True
    )
    simulated = Candidate("simulated", direct=True)
    with running(simulated, Engine(args=f"--constants {shlex.quote(str(constants.absolute()))}"), 30.0) as url:
        _rounds(url, HELD_OUT, folder / "simulated", chosen.rounds, chosen.seconds)
    sys.stdout.write(report.markdown(real, folder / "simulated"))


def _rounds(url: str, loads: Mapping[str, Plan], folder: Path, rounds: int, seconds: float) -> None:
    """Each load once in every round, so that a slow minute of the machine falls on all."""
    _measure(url, WARM)
    for number in range(1, rounds + 1):
        for name, plan in loads.items():
            seed = 100 + number
            timed = msgspec.structs.replace(plan, duration_s=seconds, seed=seed, salt=f"{seed}/{name}")
            raw.write(folder / f"{name}-{number}.jsonl", _measure(url, timed))


def _measure(url: str, plan: Plan) -> raw.Run:
    return measure(Job(plan, [Caller()], list(slo.DEFAULT)), url, None)
