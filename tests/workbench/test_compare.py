"""``headgate compare``: who is compared and in which order, what rounds come to, and the command for real."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from headgate.cli import main
from headgate.workbench.bench import raw
from headgate.workbench.bench.raw import CallerPlan, End, Header, Outcome, Place, Plan, Record, Run, Target
from headgate.workbench.compare.medians import judged, rows
from headgate.workbench.compare.run import file_name, file_names, plan_of, show, shown
from headgate.workbench.compare.start import Engine, command, environment
from headgate.workbench.compare.targets import BadTarget, Candidate, assignments, candidates, rotated, setting, values
from tests.wire.gateway import wait_until
from tests.workbench.running import Ran, gateway
from tests.workbench.running import environment as clean

QUICK = ("--duration", "20", "--output", "6", "--input", "60", "--engine-args", "--load-s 0 --base-s 0.002")


def compare(folder: Path, *arguments: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "headgate", "compare", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean(COLUMNS="80", HEADGATE_CACHE_DIR=str(folder)),
        timeout=90,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_results_are_not_put_beside_those_of_another_comparison(tmp_path: Path) -> None:
    """Files of the same name were replaced, the others stayed: a report of the folder was of neither."""
    (tmp_path / "queue-1-round3.jsonl.gz").touch()
    ran = CliRunner().invoke(main, ["compare", "--direct", "--out", str(tmp_path)])
    assert ran.exit_code == 2
    assert "queue-1-round3.jsonl.gz" in ran.output


def test_settings_are_compared_in_every_combination() -> None:
    found = candidates(
        {"queue_mode": ["queue", "reject"], "queue_max": ["8", "64"]}, {"max_active": "4"}, [], direct=True
    )
    assert [one.name for one in found] == [
        "direct",
        "queue, queue_max=8",
        "queue, queue_max=64",
        "reject, queue_max=8",
        "reject, queue_max=64",
    ]
    assert found[1].settings == {"max_active": "4", "queue_mode": "queue", "queue_max": "8"}


def test_gateways_by_their_addresses_are_compared_too() -> None:
    found = candidates({"max_active": ["4"]}, {}, [("nginx", "http://a:1")], direct=False)
    assert [(one.name, one.url) for one in found] == [("4 slots", None), ("nginx", "http://a:1")]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (({}, {}, [], False), "nobody"),
        (({"max_active": [str(n) for n in range(9)], "queue_max": [str(n) for n in range(9)]}, {}, [], False), "81"),
        (({"max_active": ["4"]}, {}, [("4 slots", "u")], False), "two targets"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(
    given: tuple[dict[str, list[str]], dict[str, str], list[tuple[str, str]], bool], why: str
) -> None:
    vary, fixed, urls, direct = given
    with pytest.raises(BadTarget, match=why):
        candidates(vary, fixed, urls, direct=direct)


def test_what_is_assigned_is_read() -> None:
    assert assignments(["QUEUE_MAX = 8", "a=b=c"], "--set") == {"QUEUE_MAX": "8", "a": "b=c"}
    assert [setting(name) for name in ("QUEUE_MAX", "queue-max", "HEADGATE_QUEUE_MAX")] == ["queue_max"] * 3
    assert values("4, 8,16", "--max-active") == ["4", "8", "16"]
    for wrong in ("", "4,4", ","):
        with pytest.raises(BadTarget):
            values(wrong, "--max-active")
    for wrong in ("x", "=1", "x="):
        with pytest.raises(BadTarget):
            assignments([wrong], "--set")


def test_each_round_begins_with_another_target_and_none_is_left_out() -> None:
    everybody = [Candidate(name) for name in "abc"]
    orders = ["".join(one.name for one in rotated(everybody, round_)) for round_ in range(1, 5)]
    assert orders == ["abc", "bca", "cab", "abc"]


def test_in_a_round_all_get_the_same_arrivals_and_lengths_and_other_words() -> None:
    plan = Plan(seed=10)
    a, b, later = (plan_of(plan, "5", None, round_, name, 0) for round_, name in ((1, "a"), (1, "b"), (2, "a")))
    assert a.seed == b.seed == 10
    assert later.seed == 11
    assert len({a.salt, b.salt, later.salt, plan_of(plan, "9", None, 1, "a", 1).salt}) == 4


def test_a_gateway_is_started_with_its_settings_and_keys_are_on_no_command_line() -> None:
    one = Candidate("x", settings={"queue_mode": "reject", "api_key": "sk-1", "model": "Qwen/Qwen3-0.6B"})
    argv, env = command(one, Engine("http://127.0.0.1:8000", key="sk-2"))
    assert argv[3:5] == ["serve", "Qwen/Qwen3-0.6B"]
    assert "--queue-mode=reject" in argv
    assert "--engine-urls=http://127.0.0.1:8000" in argv
    assert not any("sk-" in argument for argument in argv)
    assert env == {"HEADGATE_API_KEY": "sk-1", "HEADGATE_ENGINE_API_KEY": "sk-2"}
    assert "--engine-args=--base-s 1" in command(Candidate("x"), Engine(args="--base-s 1"))[0]
    assert command(Candidate("direct", direct=True), Engine(args="--base-s 1"))[0][-2:] == ["--base-s", "1"]


def test_keys_are_kept_nowhere() -> None:
    assert shown({"api_key": "sk-1", "queue_max": "8"}) == {"api_key": "…", "queue_max": "8"}
    done = CliRunner().invoke(main, ["compare", "--vary", "api_key=sk-1,sk-2"])
    assert done.exit_code == 2, "a target would be called by its key"


def test_no_setting_of_this_shell_gets_into_a_comparison() -> None:
    assert environment({"PATH": "/bin", "HEADGATE_QUEUE_MAX": "1", "MAX_ACTIVE": "1"}) == {"PATH": "/bin"}


def run(target: str, round_: int, latencies_s: list[float], rate: str = "5") -> Run:
    header = Header(
        started_at="2026-11-21T12:00:00+00:00",
        plan=Plan(rate=rate, duration_s=10.0),
        target=Target(url="http://x", path="/v1/chat/completions", model="m"),
        place=Place(comparison="c", target=target, round=round_),
    )
    records = [
        Record(n=n, at_s=0.1, outcome=Outcome.OK, status=200, latency_s=latency_s, tokens=1)
        for n, latency_s in enumerate(latencies_s)
    ]
    return Run(header, records, End(span_s=10.0, offered_s=10.0), f"{target}-{round_}.jsonl")


def test_rounds_come_to_their_median_and_range() -> None:
    runs = [run("a", 1, [1.0]), run("a", 2, [9.0]), run("a", 3, [2.0]), run("b", 1, [5.0] * 2), run("a", 1, [3.0], "9")]
    found = rows(judged(runs))
    assert [(row.target, row.load.split()[0], row.rounds) for row in found] == [
        ("a", "5", 3),
        ("b", "5", 1),
        ("a", "9", 1),
    ]
    first = found[0].latency_p95_s
    assert (first.median, first.least, first.most) == (2.0, 1.0, 9.0)
    assert found[0].sources == ["a-1.jsonl", "a-2.jsonl", "a-3.jsonl"]
    assert found[1].answered_per_s.median == 0.2
    assert found[0].ttft_p95_s.median is None


def test_a_targets_name_makes_a_files_name() -> None:
    assert file_name("queue, queue_max=8") == "queue_queue_max=8"
    assert "/" not in file_name("../../etc/passwd")
    assert file_name("…") == "target"


def test_no_two_targets_share_a_files_name() -> None:
    """The second's raw results were written over the first's."""
    assert file_names(["a/b", "a b", "c", "a:b"]) == {"a/b": "a_b", "a b": "a_b~2", "c": "c", "a:b": "a_b~3"}
    long = "engine_args=" + 80 * "x"
    assert len(set(file_names([f"{long}1", f"{long}2"]).values())) == 2


def test_the_table_is_whole_in_80_columns_and_takes_no_name_for_markup() -> None:
    """Names were one letter a line beside errors and Jain's index, and [/b] in one ended it all with a traceback."""
    names = ["queue_max=8 [/b]", "reject"]
    runs = []
    for target in names:
        for round_ in (1, 2):
            one = run(target, round_, [n / 7 * round_ for n in range(1, 99)])
            plan = msgspec.structs.replace(one.header.plan, callers=[CallerPlan("a"), CallerPlan("b")])
            records = [msgspec.structs.replace(r, caller="ab"[r.n % (round_ + 1) % 2]) for r in one.records]
            bad = [Record(n=n, at_s=0.1, outcome=Outcome.ERROR, reason="cut", latency_s=1.0) for n in range(7 * round_)]
            no = [Record(n=n, at_s=0.1, outcome=Outcome.REFUSED, status=429, latency_s=0.1) for n in range(9 * round_)]
            header = msgspec.structs.replace(one.header, plan=plan)
            runs.append(Run(header, [*records, *bad, *no], one.end, one.source))
    console = Console(width=80)
    with console.capture() as seen:
        show(console, rows(judged(runs)), [], Path("out"))
    table = seen.get().split("\n\n")[0]
    assert "…" not in table
    assert "reject" in table
    folded = "".join(line.split(" ")[0] for line in table.splitlines())
    assert "[/b]" in folded


def test_modes_side_by_side_with_the_engine_and_another_gateway(tmp_path: Path) -> None:
    with gateway(tmp_path, "--max-active", "2", "--engine-args", "--load-s 0") as url:
        flags = ("--modes", "queue,reject", "--set", "MAX_ACTIVE=1", "--direct", "--url", f"other={url}/v1")
        ran = compare(
            tmp_path, *flags, "--users", "3", "--requests", "9", "--rounds", "2", *QUICK, "--out", "o", "--json"
        )
    assert ran.status == 0, ran.err
    found = {row["target"]: row for row in json.loads(ran.out)["rows"]}
    assert list(found) == ["direct", "queue", "reject", "other"]
    assert {row["rounds"] for row in found.values()} == {2}
    assert found["queue"]["refused"]["most"] == 0
    assert found["reject"]["refused"]["least"] > 0, "one slot and three users"
    files = sorted((tmp_path / "o").iterdir())
    assert len(files) == 8
    header = raw.read(tmp_path / "o" / "reject-1-round2.jsonl").header
    assert header.place == Place(
        comparison=header.place.comparison if header.place else "",
        target="reject",
        round=2,
        settings={"max_active": "1", "queue_mode": "reject"},
    )


def test_orders_are_compared_by_how_they_share_between_users_of_one_key(tmp_path: Path) -> None:
    flags = ("--orders", "fifo,fair", "--set", "max_active=1", "--set", "api_key=sk-1", "--key", "sk-1", "--as-users")
    crowd = ("--caller", "greedy:7", "--caller", "shy", "--users", "8", "--requests", "16", "--rounds", "1")
    ran = compare(tmp_path, *flags, *crowd, *QUICK, "--out", "o", "--json")
    assert ran.status == 0, ran.err
    found = {row["target"]: row for row in json.loads(ran.out)["rows"]}
    assert list(found) == ["fifo", "fair"]
    assert all(row["jain_tokens"]["median"] for row in found.values())
    for path in (tmp_path / "o").iterdir():
        assert "sk-1" not in path.read_text()
        callers = raw.read(path).header.plan.callers
        assert [caller.headers for caller in callers] == [{"x-headgate-user": name} for name in ("greedy", "shy")]


def test_a_target_that_does_not_start_is_told_and_the_others_are_measured(tmp_path: Path) -> None:
    ran = compare(
        tmp_path, "--max-active", "1,0", "--users", "1", "--requests", "2", "--rounds", "1", *QUICK, "--out", "o"
    )
    assert ran.status == 1
    assert "not measured: round 1, 0 slots: it did not start: headgate: --max-active = '0'" in ran.out.replace(
        "\n", " "
    )
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["1_slots-1-round1.jsonl"]


def test_ctrl_c_shows_what_there_is_and_leaves_nothing_running(tmp_path: Path) -> None:
    arguments = ("--modes", "queue", "--direct", "--users", "1", "--requests", "3", "--rounds", "100", "--out", "o")
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "headgate", "compare", *arguments, *QUICK],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=tmp_path,
            env=clean(COLUMNS="80"),
            # Whoever started the tests in the background may ignore it, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        wait_until(lambda: "round 2, queue" in (tmp_path / "said").read_text(), "a round and more are done")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=40)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, (tmp_path / "said").read_text()
    assert "queue" in out
    assert "direct" in out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "nobody to compare"),
        (["--vary", "colour=red,blue"], "no setting 'colour'"),
        (["--vary", "port=1,2"], "no setting 'port'"),
        (["--url", "http://a"], "takes NAME=VALUE"),
        (["--modes", "queue", "--rate", "wave:1"], "ramp:1-20"),
    ],
)
def test_bad_arguments_are_one_line_and_2(arguments: list[str], why: str) -> None:
    done = CliRunner().invoke(main, ["compare", *arguments])
    assert done.exit_code == 2
    assert why in done.output


@pytest.mark.parametrize(("flags", "about"), [([], "15 min 4 s"), (["--rate", "5"], "33 s")])
def test_a_trace_whose_times_are_not_wanted_does_not_say_how_long_it_takes(
    tmp_path: Path, flags: list[str], about: str
) -> None:
    """--rate went on for as long as the trace, and for 30 s in bench."""
    (tmp_path / "t.jsonl").write_text('{"arrival_s": 900, "prompt_tokens": 8, "output_tokens": 3}')
    arguments = ["--url", "nobody=http://127.0.0.1:9", "--rounds", "1", "--trace", str(tmp_path / "t.jsonl"), *flags]
    done = CliRunner().invoke(main, ["compare", "--out", str(tmp_path / "o"), *arguments])
    assert done.exit_code == 1
    assert f"1 runs in 1 rounds, about {about};" in done.output


def test_help_fits_one_screen() -> None:
    help_ = CliRunner().invoke(main, ["compare", "--help"], terminal_width=80).output
    assert len(help_.splitlines()) <= 45
