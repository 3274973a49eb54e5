"""The chaos run: its plan, its books, and (`make test-chaos`) its short profile against a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadtest.chaos.asks import ask
from loadtest.chaos.books import Books, Excuse, Outcome
from loadtest.chaos.clients import judge
from loadtest.chaos.plan import ENDS_ENGINE, ENDS_GATEWAY, KINDS, plan
from loadtest.chaos.run import main

ROOT = Path(__file__).parents[2]
SEED = os.environ.get("CHAOS_SEED", "7")


def test_a_seed_gives_its_plan_again_and_another_seed_another() -> None:
    assert plan(7, 100_000, 2_000) == plan(7, 100_000, 2_000)
    assert plan(7, 100_000, 2_000) != plan(8, 100_000, 2_000)
    assert [ask(7, number, "storm") for number in range(100)] == [ask(7, number, "storm") for number in range(100)]


@pytest.mark.parametrize("requests", [12_000, 1_000_000])
def test_every_fault_comes_and_only_the_first_tenth_ends_the_gateway(requests: int) -> None:
    for seed in range(50):
        steps = plan(seed, requests, requests // 150)
        assert {step.kind for step in steps} == set(KINDS)
        assert all(step.at <= requests // 10 for step in steps if step.kind in ENDS_GATEWAY)
        assert [step.at for step in steps] == sorted(step.at for step in steps)


def test_an_engine_is_never_killed_so_often_that_the_gateway_gives_it_up() -> None:
    for seed in range(50):
        deaths = 0
        for step in plan(seed, 1_000_000, 1_000, [*ENDS_ENGINE, "clock_jump"]):
            deaths = deaths + 1 if step.kind in ENDS_ENGINE else 0 if step.kind == "engine_restart" else deaths
            assert deaths <= 3


def line(number: int, reason: str) -> bytes:
    return json.dumps({"message": "request", "request_id": f"chaos-{number}", "reason": reason}).encode() + b"\n"


def broken(books: Books, sent: int) -> dict[str, int]:
    books.compare(sent)
    return dict(books.broken_rules)


def test_books_that_agree_break_no_rule() -> None:
    books = Books(4)
    books.end(1, Outcome.OK)
    books.end(2, Outcome.REFUSED, "queue_full")
    books.end(3, Outcome.LEFT)
    books.end(4, Outcome.ERROR_EVENT, "engine_failed")
    books.read_log(line(2, "queue_full") + line(1, "ok") + line(3, "client_left") + line(4, "engine_failed"))
    assert broken(books, 4) == {}


@pytest.mark.parametrize(
    ("outcome", "reason", "log", "rule"),
    [
        (Outcome.OK, "", b"", "one end each"),
        (Outcome.OK, "", line(1, "client_left"), "one end each"),
        (Outcome.OK, "", line(1, "ok") + line(1, "ok"), "one end each"),
        (Outcome.LEFT, "", line(1, "ok") + line(1, "client_left"), "one end each"),
        (Outcome.REFUSED, "draining", line(1, "queue_full"), "one end each"),
        (Outcome.CUT, "", line(1, "engine_failed"), "one end each"),
        (Outcome.STUCK, "", b"", "one end each"),
        (Outcome.UNSENT, "", b"", "one end each"),
        (Outcome.WRONG, "", line(1, "ok"), "text intact"),
    ],
)
def test_books_that_differ_break_a_rule(outcome: Outcome, reason: str, log: bytes, rule: str) -> None:
    books = Books(1)
    if outcome is not Outcome.UNSENT:
        books.end(1, outcome, reason)
    books.read_log(log)
    assert broken(books, 1) == {rule: 1}


def test_a_fault_excuses_what_it_makes_unavoidable_and_no_more() -> None:
    books = Books(4)
    for number in range(1, 5):
        books.end(number, Outcome.CUT, what="0 bytes of an answer had come" if number != 3 else "90 bytes")
    books.excuses[1] = Excuse.CUT
    books.excuses[2] = books.excuses[3] = Excuse.UNBEGUN
    assert broken(books, 4) == {"one end each": 2}, "3 had begun, 4 has no excuse"
    books = Books(1)
    books.end(1, Outcome.OK)
    books.excuses[1] = Excuse.LINE_LOST
    assert broken(books, 1) == {}


def test_a_client_takes_an_answer_for_good_only_to_the_letter() -> None:
    asked = next(a for a in (ask(7, number, "calm") for number in range(100)) if a.stream and a.tokens > 1)
    first, rest = asked.expected()[:5], asked.expected()[5:]

    def stream(*pieces: str, done: bool = True) -> bytes:
        events = [f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n" for piece in pieces]
        return "".join([": a comment\n\n", *events, "data: [DONE]\n\n" if done else ""]).encode()

    assert judge(asked, 200, stream(first, rest))[0] is Outcome.OK
    assert judge(asked, 200, stream(first, rest).replace(b"\n", b"\r\n"))[0] is Outcome.OK
    assert judge(asked, 200, stream(rest, first))[0] is Outcome.WRONG
    assert judge(asked, 200, stream(first, first, rest))[0] is Outcome.WRONG
    assert judge(asked, 200, stream(first))[0] is Outcome.WRONG
    assert judge(asked, 200, stream(first, rest, done=False))[0] is Outcome.WRONG
    assert judge(asked, 200, b"data: {\n\n")[0] is Outcome.WRONG
    error = b'data: {"error":{"message":"","code":"engine_failed"}}\n\n'
    assert judge(asked, 200, stream(first, done=False) + error)[:2] == (Outcome.ERROR_EVENT, "engine_failed")
    assert judge(asked, 503, b'{"error":{"message":"","code":"draining"}}')[:2] == (Outcome.REFUSED, "draining")
    assert judge(asked, 503, b"")[0] is Outcome.WRONG


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--requests", "0"], "'0' is no whole number from 1"),
        (["--every", "-1"], "'-1' is no whole number from 1"),
        (["--limit-s", "0"], "'0' is not above 0"),
        (["--faults", ","], "--faults names none"),
        (["--results", "/proc/none"], "/proc/none can't be written: No such file or directory"),
        (["--keep-log", "/nowhere/log"], "/nowhere/log can't be written: No such file or directory"),
    ],
)
def test_a_run_that_cannot_be_is_one_line_and_2(
    flags: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that can't be written was found out after the run; 0 requests were the profile's."""
    with pytest.raises(SystemExit) as ended:
        main(["--results", str(tmp_path), *flags])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.chaos
def test_everything_holds_under_faults_of_every_kind(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.chaos", "--profile", "short", "--seed", SEED, "--results", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        cwd=ROOT,
        check=False,
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout
    (raw,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert raw["requests"] == 12_000
    assert set(Counter(fault["kind"] for fault in raw["faults"])) == set(KINDS)
    assert sum(raw["outcomes"].values()) == raw["requests"]
