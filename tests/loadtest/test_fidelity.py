"""The table of how far the simulated engine is off: made of the raw files, round by round."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from headgate.workbench.bench import raw
from loadtest.fidelity.report import markdown

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


def test_with_nothing_measured_it_says_what_to_give(tmp_path: Path) -> None:
    """It was a traceback about a command that nobody had typed."""
    argv = [sys.executable, "-m", "loadtest.fidelity", "--folder", str(tmp_path)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"nothing was measured in {tmp_path / 'real'} yet: give --vllm or --url\n")
