"""Overload on sockets: who is started how, and one run from the command to its table."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headgate.workbench.bench import raw
from headgate.workbench.bench.slo import Good
from loadtest import options
from loadtest.overhead.processes import Process
from loadtest.overload import sockets, table
from loadtest.overload.engines import Engine
from loadtest.overload.places import BadPlace, Site, launch


@pytest.fixture
def site(tmp_path: Path) -> Site:
    router = tmp_path / "peers/bin/sglang-router"
    router.parent.mkdir(parents=True)
    router.touch()
    return Site(8000, 8001, 8002, tmp_path, tmp_path / "peers", tmp_path / "compiled", Good(ttft_s=1.0, latency_s=4.0))


def test_headgate_is_told_the_objectives_and_nothing_of_this_shell(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_ACTIVE", "3")
    monkeypatch.setenv("HEADGATE_QUEUE_MAX", "3")
    env = launch("auto", site).env
    assert {name: value for name, value in env.items() if name.startswith("HEADGATE_")} == {
        "HEADGATE_ENGINE": "remote",
        "HEADGATE_ENGINE_URLS": "http://127.0.0.1:8000",
        "HEADGATE_PORT": "8001",
        "HEADGATE_SLO_TTFT_S": "1",
        "HEADGATE_SLO_LATENCY_S": "4",
    }
    assert "MAX_ACTIVE" not in env
    assert launch("slots=96", site).env["HEADGATE_MAX_ACTIVE"] == "96"


def test_peers_are_capped_as_the_word_says(site: Site) -> None:
    assert "--max-concurrent-requests=96" in launch("sglang-router=96x1", site).argv
    assert not any(flag.startswith("--max-concurrent") for flag in launch("sglang-router", site).argv)
    assert launch("direct", site).argv == ()


@pytest.mark.parametrize(
    "word",
    [
        "directly",
        "slots=many",
        "slots=0",
        "auto=4",
        "haproxy=64",
        "haproxy=64x0.0",
        "haproxy=64x-1",
        "sglang-router=64",
    ],
)
def test_a_word_that_says_nothing_is_refused_by_name(site: Site, word: str) -> None:
    with pytest.raises(BadPlace, match=word.split("=")[0]):
        launch(word, site)


@pytest.mark.parametrize(
    ("tool", "flags", "why"),
    [
        ("overload", ["--loads", "0"], "'0' is not above 0"),
        ("overload", ["--seconds", "nan"], "'nan' is no number"),
        ("overload", ["--seconds", "60"], "--warm-s takes less than --seconds"),
        ("overload.statics", ["--load", "-1"], "'-1' is not above 0"),
        ("overload.statics", ["--warm-s", "200"], "--warm-s takes less than --seconds"),
        ("overload.orders", ["--rate", "0"], "'0' is not above 0"),
        ("overload.orders", ["--warm-s", "-1"], "'-1' is below 0"),
        ("overload.table", ["/nowhere"], "no *.jsonl.gz in /nowhere"),
        ("overload", ["--on", "sockets", "--rates", "x"], "'x' is no number"),
        ("overload", ["--on", "sockets", "--rates", "5,5.0"], "'5,5.0' has one of them twice"),
        ("overload", ["--on", "sockets", "--rates", ","], "none is given"),
        ("overload", ["--on", "sockets", "--rates", "5", "--targets", "auto,nobody"], "'nobody' is none of direct"),
        ("overload", ["--on", "sockets", "--rates", "5", "--outputs", "0"], "'0' is no whole number from 1"),
        ("overload", ["--on", "sockets", "--rates", "5", "--leaves-after", "0"], "'0' is not above 0"),
        ("overload", ["--on", "sockets", "--rates", "5", "--engine-args", "'"], "No closing quotation"),
        ("overload", ["--on", "sockets", "--rates", "5", "--out", "/proc/none"], "/proc/none can't be made"),
    ],
)
def test_what_nothing_can_be_measured_with_is_one_line_and_2(tool: str, flags: list[str], why: str) -> None:
    """They were tracebacks, tables of nothing, and loops without an end."""
    argv = [sys.executable, "-m", f"loadtest.{tool}", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr.splitlines()[-1]


def test_an_interrupted_tool_has_a_status_and_no_traceback() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert [options.status(main) for main in (interrupted, lambda: None, lambda: 2)] == [130, 0, 2]


def test_results_of_another_call_are_not_mixed_with_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "auto-5-round1.jsonl.gz").touch()
    with pytest.raises(SystemExit) as ended:
        sockets.parse(["--rates", "5", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "there are results in" in capsys.readouterr().err


def test_a_run_whose_engine_died_is_no_figure(tmp_path: Path) -> None:
    """It was a row of the table like any other, and the exit status was 0."""
    fault = """--base-s 0.002 --fault '{"kind":"crash","after_requests":8}'"""
    done = on_sockets(tmp_path, "--targets", "direct", "--engine-args", fault)
    assert done.returncode == 1
    assert done.stderr.endswith("round 1, 20/s, direct: the engine ended with status -9 under load\n")
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_vllm_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = on_sockets(tmp_path, "--engine", "vllm", "--vllm", "/nowhere/vllm")
    assert done.returncode == 1
    assert done.stderr.endswith("there is no /nowhere/vllm: sh tests/vllm/install.sh\n")


def test_the_table_says_first_what_is_to_be_doubted(tmp_path: Path) -> None:
    done = on_sockets(
        tmp_path,
        "--targets",
        "direct",
        "--engine-args",
        """--fault '{"kind":"error","times":null,"path":"/v1/chat/completions","after_requests":2}'""",
    )
    assert done.returncode == 0, done.stderr
    doubts = done.stdout.partition("\n\n| good")[0].splitlines()
    assert doubts[0] == "To be doubted:"
    assert any(line.startswith("- 20/s, direct, round 1: nobody was answered: ") and "× 500" in line for line in doubts)


def on_sockets(out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    load = ("--rates", "20", "--seconds", "1", "--warm-up", "1", "--drain", "5", "--outputs", "4", "--out", str(out))
    argv = [sys.executable, "-m", "loadtest.overload", "--on", "sockets", *load, *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)


def test_no_client_goes_on_when_a_run_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At Ctrl-C, or where a gateway didn't say its slots, clients sent on for as long as the load was to last."""
    monkeypatch.setattr(sockets, "LOOK_S", 0.0)
    with ExitStack() as stack:
        run = sockets.Runs(sockets.parse(["--rates", "1"]), tmp_path, tmp_path, datetime.now(UTC), stack)
        process = Process(("sleep", "600"))
        stack.callback(process.stop)
        monkeypatch.setattr(run, "_client", lambda *_: (process, None))
        standing = sockets.Standing("auto", "http://127.0.0.1:9", Engine(process, 9, "m"), None)
        with pytest.raises(OSError, match="refused"):
            run._measure([standing], 1, 1.0)
        assert process.exit_status is not None


def test_a_run_on_sockets_keeps_raw_files_and_makes_its_table_from_them(tmp_path: Path) -> None:
    flags = ["--targets", "direct,auto", "--rates", "20", "--seconds", "1", "--warm-up", "1", "--outputs", "4,8"]
    flags += ["--engine-args", "--base-s 0.002", "--side-by-side", "--obey", "--out", str(tmp_path)]
    argv = [sys.executable, "-m", "loadtest.overload", "--on", "sockets", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    runs = [raw.read(path) for path in sorted(tmp_path.glob("*.jsonl.gz"))]
    assert [run.header.place.target for run in runs if run.header.place] == ["auto", "direct"]
    assert [record.at_s for record in runs[0].records] == [record.at_s for record in runs[1].records]
    assert {record.asked_tokens for record in runs[0].records} == {4, 8}
    assert len(runs[0].counted) < len(runs[0].records), "the warm-up is kept and isn't counted"
    assert table.markdown(runs) in done.stdout
