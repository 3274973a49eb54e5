"""``headgate bench`` as people run it: the command, a real gateway, the simulated engine behind it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click import UsageError
from click.testing import CliRunner

from headgate.cli import main
from headgate.workbench.bench import raw
from headgate.workbench.bench.command import bench as command
from headgate.workbench.bench.options import job, redacted
from headgate.workbench.bench.raw import Outcome
from headgate.workbench.bench.summary import summarize
from tests.wire.gateway import sample, wait_until
from tests.workbench.running import Ran, environment, gateway

QUICK = ("--duration", "20", "--output", "8", "--input", "60")


def bench(folder: Path, *arguments: str, **env: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "headgate", "bench", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(COLUMNS="80", **env),
        timeout=60,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = "--load-s 0 --base-s 0.001"
    with gateway(tmp_path_factory.mktemp("gateway"), "--max-active", "4", "--engine-args", engine) as url:
        yield url


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One slot and no line, and a key."""
    flags = ("--max-active", "1", "--queue-mode", "reject", "--api-key", "sk-secret", "--engine-args", "--load-s 0")
    with gateway(tmp_path_factory.mktemp("strict"), *flags) as url:
        yield url


def test_a_run_is_shown_kept_and_judged(served: str, tmp_path: Path) -> None:
    ran = bench(tmp_path, served, "--users", "2", "--requests", "6", "--seed", "5", *QUICK)
    assert ran.status == 0, ran.err
    assert "6 requests: 6 answered, 0 refused, 0 errors" in ran.out
    assert "seed 5" in ran.out
    assert "60 tokens in, 8 out" in ran.out, "by the engine's own count"
    assert ran.out.splitlines()[-1] == "SLO MET"
    assert max(map(len, ran.out.splitlines())) <= 80
    (kept,) = (tmp_path / "results").iterdir()
    run = raw.read(kept)
    assert {record.outcome for record in run.records} == {Outcome.OK}
    assert {(r.prompt_tokens, r.tokens, len(r.gaps_ms), r.engine) for r in run.records} == {(60, 8, 7, "e0")}
    assert all(r.ttft_s is not None and r.queue_ms is not None for r in run.records)
    header = run.header
    assert header.command == f"headgate bench {served} --users 2 --requests 6 --seed 5 {' '.join(QUICK)}"
    assert header.target.server.startswith("Headgate ")
    assert header.target.counted
    assert header.machine.cores > 0


def test_json_is_everything_and_what_raw_comes_to(served: str, tmp_path: Path) -> None:
    ran = bench(
        tmp_path, f"{served}/v1", "--rate", "step:20,60", "--requests", "9", *QUICK, "--json", "--raw", "a/b.jsonl.gz"
    )
    said = json.loads(ran.out)
    assert (ran.status, said["exit_status"], said["raw"]) == (0, 0, "a/b.jsonl.gz")
    found = summarize(raw.read(tmp_path / "a/b.jsonl.gz"))
    assert said["summary"]["latency"]["p95"] == found.latency.p95 if found.latency else None
    assert said["summary"]["answered"] == 9
    assert said["plan"]["rate"] == "step:20,60"


@pytest.mark.parametrize("flags", [["--whole"], ["--api", "completions"], ["--api", "completions", "--whole"]])
def test_both_apis_streamed_and_whole(served: str, tmp_path: Path, flags: list[str]) -> None:
    ran = bench(tmp_path, served, "--users", "2", "--requests", "4", *QUICK, *flags, "--raw", "r.jsonl")
    assert ran.status == 0, ran.out + ran.err
    run = raw.read(tmp_path / "r.jsonl")
    assert [(r.outcome, r.tokens, r.prompt_tokens) for r in run.records] == [(Outcome.OK, 8, 60)] * 4
    assert all((r.ttft_s is None) == ("--whole" in flags) for r in run.records)


@pytest.mark.parametrize("kind", ["mixed", "shared-prefix", "conversation"])
def test_every_workload_is_answered(served: str, tmp_path: Path, kind: str) -> None:
    ran = bench(tmp_path, served, "--users", "2", "--requests", "8", *QUICK, "--workload", kind, "--raw", "r.jsonl")
    assert ran.status == 0, ran.out + ran.err
    records = raw.read(tmp_path / "r.jsonl").records
    assert len(records) == 8
    if kind == "conversation":
        prompts = [record.prompt_tokens for record in records if record.conversation == 0]
        assert prompts == sorted(prompts)
        assert prompts[1] > prompts[0] + 8, "the answer is part of the next prompt"


def test_a_trace_is_replayed(served: str, tmp_path: Path) -> None:
    lines = [
        {"arrival_s": 0.0, "prompt_tokens": 80, "output_tokens": 3},
        {"arrival_s": 50.0, "prompt": "What is a headgate?", "output_tokens": 5},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ran = bench(tmp_path, served, "--trace", "t.jsonl", "--speed", "1000", "--raw", "r.jsonl")
    assert ran.status == 0, ran.out + ran.err
    assert "as in the trace, 1000 times as fast" in ran.out
    assert [(r.at_s, r.tokens) for r in raw.read(tmp_path / "r.jsonl").records] == [(0.0, 3), (0.05, 5)]


@pytest.mark.parametrize(
    ("flags", "duration_s"),
    [([], 901.0), (["--duration", "5"], 5.0), (["--rate", "3"], 30.0), (["--speed", "100"], 10.0)],
)
def test_a_trace_is_replayed_whole_unless_its_times_are_not_wanted(
    tmp_path: Path, flags: list[str], duration_s: float
) -> None:
    (tmp_path / "t.jsonl").write_text('{"arrival_s": 900, "prompt_tokens": 8, "output_tokens": 3}')
    with command.make_context("bench", ["--trace", str(tmp_path / "t.jsonl"), *flags]) as context:
        assert job(context.params, []).plan.duration_s == duration_s


@pytest.mark.parametrize("flags", [["--caller", "ann"], ["--callers", "people.toml"]])
def test_a_traces_caller_who_is_not_among_those_given_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    """With --callers another one's key was taken, by chance."""
    monkeypatch.chdir(tmp_path)
    Path("people.toml").write_text('[[caller]]\nname = "ann"\n')
    Path("t.jsonl").write_text('{"arrival_s": 1, "prompt_tokens": 8, "output_tokens": 3, "caller": "zed"}')
    why = "has a caller 'zed' who is not among those given"
    with command.make_context("bench", ["--trace", "t.jsonl", *flags]) as context, pytest.raises(UsageError, match=why):
        job(context.params, [])


def test_a_trace_of_moments_of_the_day_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Seconds since 1970 were waited for, and nothing was sent for half a century."""
    (tmp_path / "t.jsonl").write_text('{"arrival_s": 1764450000, "prompt_tokens": 8, "output_tokens": 3}')
    arguments, why = ["--trace", str(tmp_path / "t.jsonl")], "arrival_s counts from the trace's start"
    with command.make_context("bench", arguments) as context, pytest.raises(UsageError, match=why):
        job(context.params, [])


def test_refusals_miss_the_slo_and_are_counted_by_reason(strict: str, tmp_path: Path) -> None:
    flags = ("--users", "3", "--requests", "9", *QUICK, "--key", "sk-secret", "--raw", "r.jsonl")
    ran = bench(tmp_path, strict, *flags)
    assert ran.status == 1, ran.out + ran.err
    assert "× 429 slots_busy" in ran.out
    assert "SLO MISSED: errors" in ran.out.splitlines()[-1]
    refused = [r for r in raw.read(tmp_path / "r.jsonl").records if r.outcome is Outcome.REFUSED]
    assert refused
    assert all(r.status == 429 and r.retry_after_s is not None for r in refused)
    assert "sk-secret" not in ran.out + ran.err + (tmp_path / "r.jsonl").read_text()


def test_those_who_obey_retry_after_are_served_in_the_end(strict: str, tmp_path: Path) -> None:
    flags = ("--users", "2", "--requests", "4", *QUICK, "--obey-retry-after", "--raw", "r.jsonl")
    ran = bench(tmp_path, strict, *flags, HEADGATE_API_KEY="sk-secret")
    assert ran.status == 0, ran.out + ran.err
    assert "refused at first" in ran.out
    found = summarize(raw.read(tmp_path / "r.jsonl")).obeyed
    assert found is not None
    assert found.refused_first == found.answered > 0


def test_callers_are_told_apart(strict: str, tmp_path: Path) -> None:
    flags = ("--users", "2", "--requests", "6", *QUICK, "--caller", "good=sk-secret", "--caller", "bad=sk-wrong")
    ran = bench(tmp_path, strict, *flags, "--raw", "r.jsonl", "--json")
    assert ran.status == 1, ran.err
    summary = json.loads(ran.out)["summary"]
    good, bad = summary["callers"]
    assert (good["answered"], bad["answered"]) == (good["requests"], 0)
    assert summary["by_reason"] == {"401 unauthorized": bad["requests"]}
    assert summary["jain_answered"] == 0.5
    assert "sk-" not in ran.out + (tmp_path / "r.jsonl").read_text()


def test_an_slo_of_ones_own_decides(served: str, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text("ttft_p95_ms = 0.001\ntokens_per_s = 1\n")
    ran = bench(tmp_path, served, "--users", "1", "--requests", "3", *QUICK, "--slo", "slo.toml")
    assert ran.status == 1, ran.err
    assert "SLO MISSED: TTFT p95" in ran.out
    assert "goodput 0/s" in ran.out


def test_what_cannot_be_kept_is_shown_all_the_same(served: str, tmp_path: Path) -> None:
    """A whole run was thrown away for a folder that was none."""
    (tmp_path / "no-folder").write_text("")
    flags = ("--users", "1", "--requests", "2", *QUICK, "--raw", "no-folder/r.jsonl")
    ran = bench(tmp_path, served, *flags)
    assert ran.status == 2
    assert "no-folder/r.jsonl can't be written: " in " ".join(ran.err.split())
    assert "2 requests: 2 answered" in ran.out
    ran = bench(tmp_path, served, *flags, "--json")
    said = json.loads(ran.out)
    assert (said["exit_status"], said["raw"], said["summary"]["answered"]) == (2, "not kept", 2)


def test_ctrl_c_ends_it_and_what_was_seen_is_kept(served: str, tmp_path: Path) -> None:
    before = tokens_made(served)
    process = subprocess.Popen(
        # Its first request takes longer than the test: so it is surely still running.
        [sys.executable, "-m", "headgate", "bench", served, "--users", "1", "--output", "3000", "--raw", "r.jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(COLUMNS="80"),
    )
    try:
        wait_until(lambda: tokens_made(served) > before + 50, "the load's own request runs")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, out + err
    assert "interrupted" in out
    run = raw.read(tmp_path / "r.jsonl")
    assert run.end.interrupted
    assert [record.outcome for record in run.records] == [Outcome.UNFINISHED]


def tokens_made(url: str) -> float:
    """By the engine, since its start."""
    page = httpx.get(f"{url}/engines/e0/metrics", timeout=5, trust_env=False).text
    return sample(page, "vllm:generation_tokens_total", {})


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--rate", "5", "--users", "2"], "--rate is an open loop and --users a closed one"),
        (["--rate", "wave:3"], "ramp:1-20"),
        (["--users", "0"], "0 is not in the range"),
        (["--trace", "none.jsonl"], "none.jsonl: No such file"),
        (["--slo", "none.toml"], "none.toml: No such file"),
        (["--trace", "not-text"], "not-text, line 1: 'utf-8'"),
        (["--callers", "not-text"], "not-text: 'utf-8'"),
        (["--slo", "not-text"], "not-text: 'utf-8'"),
        (["--caller", "a", "--caller", "a"], "twice"),
        (["--header", "nonsense"], "NAME: VALUE"),
        (["--extra", "[1]"], "--extra takes a JSON object"),
        (["--extra", '{"a":' * 300_000 + "1" + "}" * 300_000], "--extra takes a JSON object"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_arguments_are_one_line_and_2(
    arguments: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("not-text").write_bytes(b'{"prompt": "\xff"}')
    done = CliRunner().invoke(main, ["bench", "http://127.0.0.1:9", *arguments])
    assert done.exit_code == 2
    assert why in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["not-text"]


@pytest.mark.parametrize(
    ("url", "flags", "why"),
    [
        ("http://127.0.0.1:9", [], "can't be reached: nothing listens there."),
        ("ftp://x", [], "does not begin with http://"),
        ("STRICT", [], "wants a key"),
        ("STRICT", ["--key", "sk-wrong"], "wants a key, or another one (401)"),
        ("STRICT", ["--key", "sk-secret", "--model", "gpt-7"], "404"),
    ],
)
def test_a_target_that_cannot_be_measured_is_one_line_and_2(
    strict: str, tmp_path: Path, url: str, flags: list[str], why: str
) -> None:
    ran = bench(tmp_path, strict if url == "STRICT" else url, *flags)
    assert (ran.status, ran.out) == (2, "")
    assert why in " ".join(ran.err.split())
    assert "Traceback" not in ran.err


def test_help_fits_one_screen_and_help_all_has_every_flag() -> None:
    help_ = CliRunner().invoke(main, ["bench", "--help"], terminal_width=80).output
    assert len(help_.splitlines()) <= 34
    every = CliRunner().invoke(main, ["bench", "--help-all"], terminal_width=80).output
    assert "--patience" in every
    assert "--patience" not in help_


@pytest.mark.parametrize(
    "argv",
    [
        ["bench", "--key", "sk-1", "u"],
        ["bench", "--key=sk-1", "u"],
        ["bench", "--set", "api_key=sk-1", "--set=API_KEY=sk-1", "u"],
        ["bench", "--caller", "a:2=sk-1", "--header", "x-api-key: sk-1", "u"],
    ],
)
def test_the_command_that_is_kept_has_no_keys(argv: list[str]) -> None:
    shown: Any = redacted(argv)
    assert "sk-1" not in shown
    assert shown.startswith("headgate bench --")
    assert shown.endswith(" u") or "=…" in shown
