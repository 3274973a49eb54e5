"""From a real engine to a table: measure, fit, simulate, compare."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import msgspec

from headgate.workbench.bench import raw, slo, target
from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.raw import Plan
from headgate.workbench.bench.run import INTERRUPTED, Job, measure
from headgate.workbench.compare import start
from headgate.workbench.compare.targets import Candidate
from headgate.workbench.fitting.play import Unfit, load_of
from loadtest.fidelity import engine, report
from loadtest.fidelity.loads import FITTED, HELD_OUT
from loadtest.options import count, positive, words
from loadtest.overhead.run import leave, say
from loadtest.overload import cores, engines

WARM = Plan(users=8, input_tokens=100, output_tokens=60, requests=48)


def main() -> int:
    """All of it, or one of its halves; 0 the table was made, 2 it couldn't be, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.fidelity", description=__doc__)
    parser.add_argument(
        "--vllm", type=Path, metavar="COMMAND", help="a vllm built for the CPU: started with a tiny model"
    )
    parser.add_argument("--url", help="a running engine instead, on a machine with cores to spare")
    parser.add_argument("--limits", type=words, default="", help="of the engine at --url: '--max-num-seqs 256'")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--seconds", type=positive, default=5.0, help="of each load")
    parser.add_argument("--folder", type=Path, default=Path("results/fidelity"))
    parser.add_argument("--constants", type=Path, help="the file to write [FOLDER/constants.toml]")
    chosen = parser.parse_args()
    real = chosen.folder / "real"
    measured = any(real.glob("*.jsonl"))
    if (chosen.vllm or chosen.url) and measured:
        parser.error(
            f"an engine was measured in {real} already, and would be mixed with this one: name another --folder"
        )
    if not (chosen.vllm or chosen.url or measured):
        parser.error(f"nothing was measured in {real} yet: give --vllm or --url")
    signal.signal(signal.SIGTERM, leave)
    try:
        return _all(chosen, real)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except (target.Unreachable, engines.NotStarted, start.NotStarted, Unfit, raw.BadFile, OSError) as error:
        say(f"no table: {error}")
        return 2


def _all(chosen: argparse.Namespace, real: Path) -> int:
    folder: Path = chosen.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not cores.first_in_line(os.getpid(), 2):
        say("No right to real-time priority: on two cores the engine will hold this client back.")
    if chosen.vllm or chosen.url:
        started = engine.vllm(chosen.vllm.absolute(), folder.absolute()) if chosen.vllm else nullcontext(chosen.url)
        with started as url:
            _rounds(url, {**FITTED, **HELD_OUT}, real, chosen.rounds, chosen.seconds)
    constants = chosen.constants or folder / "constants.toml"
    limits = shlex.split(chosen.limits) or engine.LIMIT_FLAGS
    fit: list[str | Path] = [
        sys.executable,
        "-m",
        "headgate",
        "simulate",
        "--fit",
        *sorted(real.glob("fit-*.jsonl")),
        *limits,
    ]
    fitted = subprocess.run([*fit, "--out", constants], check=False)
    if fitted.returncode:  # it has said why
        return fitted.returncode
    played = folder / "simulated"
    for old in played.glob("*.jsonl"):  # of other constants
        old.unlink()
    simulated = Candidate("simulated", direct=True)
    behind = start.Engine(args=f"--constants {shlex.quote(str(constants.absolute()))}")
    with start.running(simulated, behind, 30.0) as url:
        _rounds(url, HELD_OUT, played, chosen.rounds, chosen.seconds)
    sys.stdout.write(report.markdown(real, played))
    return 0


def _rounds(url: str, loads: Mapping[str, Plan], folder: Path, rounds: int, seconds: float) -> None:
    """Each load once in every round, so that a slow minute of the machine falls on all.

    Raises:
        Unfit: a load that was not answered; nothing can be said of it.
    """
    _measure(url, WARM, "the warm-up")
    for number in range(1, rounds + 1):
        for name, plan in loads.items():
            seed = 100 + number
            timed = msgspec.structs.replace(plan, duration_s=seconds, seed=seed, salt=f"{seed}/{name}")
            path = folder / f"{name}-{number}.jsonl"
            raw.write(path, _measure(url, timed, path.name))


def _measure(url: str, plan: Plan, name: str) -> raw.Run:
    run = measure(Job(plan, [Caller()], list(slo.DEFAULT)), url, None)
    if run.end.interrupted:
        raise KeyboardInterrupt
    load_of(msgspec.structs.replace(run, source=name))
    return run
