"""``headgate simulate --fit``: constants from measurements, judged by the loads that they play again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import astuple, fields, replace
from itertools import product
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from headgate.simulator import constants as numbers
from headgate.simulator.constants import Constants, Limits
from headgate.workbench.bench import raw
from headgate.workbench.fitting.command import chosen, fit, one_engine, short
from headgate.workbench.fitting.play import Figures, Load, Unfit, load_of, play, seen
from headgate.workbench.fitting.search import Sample, search

MEASURED = Path(__file__).parent / "fitted"
"""A vLLM 0.32 on a CPU with the tests' tiny model, 4 s of each load: 1 and 4 at once, prompts of 100 and 800."""
FILES = sorted(MEASURED.glob("*.jsonl.gz"))
LIMITS = Limits(max_num_seqs=16, max_model_len=8192, num_gpu_blocks=8192, block_size=128)
QUICK = ("tokens_per_s", "ttft_p50", "gap_p50")


def closed(users: int, prompt: int, answer: int = 20, until_s: float = 0.6) -> Load:
    return Load([(0.0, prompt, answer)], users, until_s=until_s)


def noisy(figures: Figures, part: float) -> Figures:
    """Each figure too much or too little by a part, in turn."""
    return Figures(*(value * (1 + part * (-1) ** n) for n, value in enumerate(astuple(figures))))


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize(
    "real",
    [
        Constants(base_s=0.004, per_sequence_s=0.0003, per_prefill_token_s=0.00002, latency_s=0.004),
        Constants(base_s=0.02, per_sequence_s=0.00005, per_prefill_token_s=0.0001, per_context_token_s=1e-7),
    ],
    ids=["small", "large"],
)
def test_a_fit_to_what_the_engine_itself_played_foretells_other_loads(real: Constants, noise: float) -> None:
    loads = [closed(users, prompt) for users, prompt in product((1, 4, 16), (100, 800))]
    samples = [Sample(str(n), load, noisy(play(real, LIMITS, load), noise)) for n, load in enumerate(loads)]
    found = search(samples, LIMITS)
    for load in (closed(8, 300), closed(2, 500), Load([(i * 0.03, 200, 30) for i in range(20)])):
        off = play(found.constants, LIMITS, load).errors(play(real, LIMITS, load))
        assert max(abs(off[name]) for name in QUICK) < 0.02 + 3 * noise, (off, found.constants)


def test_one_wild_figure_does_not_bend_the_rest() -> None:
    real = Constants(base_s=0.004, per_sequence_s=0.0003)
    loads = [closed(users, prompt) for users, prompt in product((1, 4, 16), (100, 800))]
    samples = [Sample(str(n), load, play(real, LIMITS, load)) for n, load in enumerate(loads)]
    stalled = replace(samples[2].real, ttft_mean=samples[2].real.ttft_mean * 20)
    found = search([*samples[:2], replace(samples[2], real=stalled), *samples[3:]], LIMITS)
    off = play(found.constants, LIMITS, closed(8, 300)).errors(play(real, LIMITS, closed(8, 300)))
    assert max(abs(off[name]) for name in QUICK) < 0.1, off


def test_latency_is_in_the_first_token_and_in_nothing_after_it() -> None:
    load = Load([(0.0, 100, 10), (5.0, 100, 10)])
    near, far = (play(Constants(latency_s=latency_s), LIMITS, load) for latency_s in (0.0, 0.5))
    assert far.ttft_p50 == pytest.approx(near.ttft_p50 + 0.5)
    assert far.gap_mean == pytest.approx(near.gap_mean)


def test_a_real_engines_measurements_make_a_file_that_plays_them_again(tmp_path: Path) -> None:
    out = tmp_path / "constants.toml"
    sizes = ["--max-num-seqs", "16", "--max-model-len", "8192", "--num-gpu-blocks", "8192", "--block-size", "128"]
    ended = CliRunner().invoke(fit, [str(MEASURED), "--out", str(out), *sizes])
    assert ended.exit_code == 0, ended.output
    assert f"headgate simulate --constants {out}" in ended.output
    assert all(path.name in ended.output for path in FILES)
    found, given = numbers.load(out)
    assert {name: getattr(LIMITS, name) for name in given} == given
    for path in FILES:
        run = raw.read(path)
        off = play(found, LIMITS, load_of(run)).errors(seen(run))
        assert abs(off["tokens_per_s"]) < 0.15, (path.name, off)
        assert abs(off["gap_p50"]) < 0.2, (path.name, off)


def test_constants_that_cannot_be_written_are_shown(tmp_path: Path) -> None:
    """It ended with a traceback, and what had been found was shown nowhere."""
    ended = CliRunner().invoke(fit, [str(MEASURED), "--out", str(tmp_path / "none" / "c.toml")])
    assert ended.exit_code == 2
    assert isinstance(ended.exception, SystemExit)
    assert "base_s" in ended.output
    assert "can't be written: No such file or directory" in ended.output


def test_of_several_runs_of_a_load_the_quickest_counts() -> None:
    run = raw.read(FILES[0])
    slower = raw.Run(
        msgspec.structs.replace(run.header, plan=msgspec.structs.replace(run.header.plan, seed=9, salt="other")),
        run.records,
        msgspec.structs.replace(run.end, span_s=run.end.span_s * 2),
        "slower",
    )
    (sample,) = chosen([slower, run])
    assert sample.name == run.source


def test_measurements_that_cannot_tell_the_constants_apart_are_refused(tmp_path: Path) -> None:
    for files, why in ((FILES[:2], "vary --users"), ([FILES[0], FILES[2]], "vary --input")):
        ended = CliRunner().invoke(fit, [*map(str, files), "--out", str(tmp_path / "c.toml")])
        assert ended.exit_code == 2
        assert why in ended.output
    assert not (tmp_path / "c.toml").exists()


def test_files_of_two_engines_are_refused_by_name() -> None:
    """In a folder of `headgate compare` the quickest target's run was taken of each load, one here and one there."""
    one = raw.read(FILES[0])
    target = msgspec.structs.replace(one.header.target, server="Headgate 0.1.0, 4 slots, a line of 16")
    other = raw.Run(msgspec.structs.replace(one.header, target=target), one.records, one.end, "other.jsonl")
    with pytest.raises(
        Unfit, match=r"^two engines: vllm-1-at-once-100-in.jsonl.gz is of tiny \(version 0.32.0\), other"
    ):
        one_engine([one, other])
    one_engine([one, one])


def test_a_request_longer_than_the_limits_allow_is_named_with_its_flag(tmp_path: Path) -> None:
    """It was "longer than max_model_len", of whatever file."""
    given = [*map(str, FILES), "--max-model-len", "512", "--out", str(tmp_path / "c.toml")]
    refused = CliRunner().invoke(fit, given)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("headgate simulate --fit: vllm-1-at-once-800-in.jsonl.gz: ")
    assert refused.stderr.endswith("tokens in one request: give the engine's own --max-model-len\n")


@pytest.mark.parametrize("value", [0.0, 0.00002047, 0.0996, 0.99999, 1.0, 12.3456])
def test_a_constant_is_written_as_toml_reads_it(value: float) -> None:
    """Of one just below 1 it was "1.", which is none."""
    read = msgspec.toml.decode(f"x = {short(value)}")["x"]
    assert read == pytest.approx(value, rel=1e-3)


def test_what_cannot_be_played_again_is_refused_and_says_why() -> None:
    run = raw.read(FILES[0])
    header = run.header

    def with_plan(**changed: object) -> raw.Run:
        plan = msgspec.structs.replace(header.plan, **changed)
        return raw.Run(msgspec.structs.replace(header, plan=plan), run.records, run.end, "it")

    with pytest.raises(Unfit, match="prefixes"):
        load_of(with_plan(workload="conversation"))
    with pytest.raises(Unfit, match="whole"):
        load_of(with_plan(stream=False))
    with pytest.raises(Unfit, match="only 2 answers"):
        load_of(raw.Run(header, run.records[:2], run.end, "it"))
    assert {f.name for f in fields(Figures)} == set(seen(run).errors(seen(run)))


def test_the_command_line_hands_fit_to_a_process_of_its_own() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "headgate", "simulate", "--fit", "--help"], capture_output=True, text=True, check=True
    )
    assert "headgate simulate --fit [OPTIONS] RAW..." in said.stdout
