"""The table of how far the simulated engine is off: made of the raw files, round by round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from headgate.workbench.bench import raw
from headgate.workbench.compare.start import Engine, running
from headgate.workbench.compare.targets import Candidate
from loadtest.fidelity.report import markdown
from tests.wire.gateway import wait_until

MEASURED = Path(__file__).parents[1] / "workbench" / "fitted" / "vllm-1-at-once-100-in.jsonl.gz"


def written(path: Path, *, slower: float) -> None:
    """A measured run, as if it had taken so many times as long."""
    run = raw.read(MEASURED)
    raw.write(
        path, raw.Run(run.header, run.records, msgspec.structs.replace(run.end, span_s=run.end.span_s * slower), "")
    )


def test_the_quickest_round_is_beside_the_simulated_one_with_the_same_arrivals(tmp_path: Path) -> None:
    real, simulated = tmp_path / "real", tmp_path / "simulated"
    for folder in (real, simulated):
        folder.mkdir()
    for number, slower in enumerate((2.0, 1.0, 0.5), 1):
        written(real / f"held-1-at-once-{number}.jsonl", slower=slower)
    written(simulated / "held-1-at-once-1.jsonl", slower=1.0)
    written(simulated / "held-1-at-once-2.jsonl", slower=0.8)  # the third round wasn't played
    written(simulated / "held-2-at-once-1.jsonl", slower=1.0)  # nor this one measured
    (row,) = markdown(real, simulated).splitlines()[2:]
    load, slowest, throughput = [cell.strip() for cell in row.strip("|").split("|")][:3]
    assert (load, slowest) == ("1 at once", "-50%")
    assert throughput.endswith("**+25%**")


def test_rounds_of_two_digits_are_rounds_too(tmp_path: Path) -> None:
    """From the tenth on they were in no table."""
    for folder in (tmp_path / "real", tmp_path / "simulated"):
        folder.mkdir()
        written(folder / "held-1-at-once-9.jsonl", slower=2.0)
        written(folder / "held-1-at-once-10.jsonl", slower=1.0)
    (row,) = markdown(tmp_path / "real", tmp_path / "simulated").splitlines()[2:]
    assert row.startswith("| 1 at once | -50% |")


def fidelity(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "loadtest.fidelity", "--folder", str(folder), *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_an_engine_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ended = fidelity(tmp_path, "--url", "http://127.0.0.1:9")
    assert ended.returncode == 2
    assert ended.stderr.endswith("no table: http://127.0.0.1:9 can't be reached: nothing listens there.\n")
    ended = fidelity(tmp_path, "--vllm", "/nowhere/vllm")
    assert ended.returncode == 2
    assert ended.stderr.endswith("no table: there is no /nowhere/vllm: sh tests/vllm/install.sh\n")


def test_an_engine_that_answers_nothing_is_one_line_and_no_file(tmp_path: Path) -> None:
    """Its rounds were kept, and the table was a traceback minutes later."""
    fault = """--fault '{"kind":"error","times":null,"after_requests":2,"path":"/v1/chat/completions"}'"""
    with running(Candidate("simulated", direct=True), Engine(args=fault), 30.0) as url:
        ended = fidelity(tmp_path, "--url", url)
    assert ended.returncode == 2
    assert ended.stderr.endswith("no table: the warm-up: only 0 answers in it; measure for longer\n")
    assert not list(tmp_path.glob("real/*"))


def test_two_engines_are_not_measured_into_one_folder(tmp_path: Path) -> None:
    """Rounds of the one before were fitted, and shown, with the new ones."""
    (tmp_path / "real").mkdir()
    written(tmp_path / "real/fit-1-at-once-100-in-3.jsonl", slower=1.0)
    ended = fidelity(tmp_path, "--url", "http://127.0.0.1:9")
    assert ended.returncode == 2
    assert "was measured" in ended.stderr.splitlines()[-1]


def test_loads_that_cannot_be_fitted_end_it_with_their_one_line(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    written(tmp_path / "real/fit-1-at-once-100-in-1.jsonl", slower=1.0)
    ended = fidelity(tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "headgate simulate --fit: all of it was measured with about as many"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_vllm_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM left it, with both of the machine's cores."""
    for name, does in (
        ("python", "exit 0"),
        ("vllm", f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 600"),
    ):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    argv = [
        sys.executable,
        "-m",
        "loadtest.fidelity",
        "--folder",
        str(tmp_path / "out"),
        "--vllm",
        str(tmp_path / "vllm"),
    ]
    with subprocess.Popen(
        argv,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's job in the background ignores it
    ) as tool:
        wait_until((tmp_path / "pid").exists, "it starts vLLM")
        tool.send_signal(number)
        _, said = tool.communicate(timeout=30)
    assert (tool.returncode, said.splitlines()[-1]) == (130, "interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_with_nothing_measured_it_says_what_to_give(tmp_path: Path) -> None:
    """It was a traceback about a command that nobody had typed."""
    argv = [sys.executable, "-m", "loadtest.fidelity", "--folder", str(tmp_path)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"nothing was measured in {tmp_path / 'real'} yet: give --vllm or --url\n")
