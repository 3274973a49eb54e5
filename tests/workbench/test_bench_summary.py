from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workbench.bench import raw, slo
from headgate.workbench.bench.raw import (
    BadFile,
    CallerPlan,
    End,
    Header,
    Objective,
    Outcome,
    Plan,
    Record,
    Run,
    Target,
    Try,
)
from headgate.workbench.bench.summary import summarize


def run(records: list[Record], plan: Plan | None = None, **end: Any) -> Run:
    header = Header(
        started_at="2026-11-21T12:00:00+00:00",
        plan=plan or Plan(rate="10", duration_s=10.0),
        target=Target(url="http://x", path="/v1/chat/completions", model="m"),
        slo=list(slo.DEFAULT),
    )
    return Run(header, records, End(**{"span_s": 12.0, "offered_s": 10.0, **end}))


def ok(n: int = 0, latency_s: float = 1.0, **more: Any) -> Record:
    return Record(n=n, at_s=n / 10, outcome=Outcome.OK, status=200, latency_s=latency_s, **{"tokens": 10, **more})


def refused(n: int = 0, **more: Any) -> Record:
    return Record(n=n, at_s=n / 10, outcome=Outcome.REFUSED, status=429, reason="queue_full", latency_s=0.002, **more)


def told(at_s: float = 0.0) -> Try:
    return Try(at_s=at_s, status=429, reason="queue_full", took_s=0.002, retry_after_s=1.0)


def test_rates_of_an_open_load_are_over_the_time_in_which_requests_were_due() -> None:
    found = summarize(run([ok(n) for n in range(50)]))
    assert (found.offered_per_s, found.answered_per_s, found.goodput_per_s) == (5.0, 5.0, 5.0)
    assert found.tokens_per_s == pytest.approx(500 / 12), "tokens over the whole run"


def test_rates_of_a_closed_load_are_over_the_whole_run() -> None:
    found = summarize(run([ok(n) for n in range(60)], Plan(users=4)))
    assert found.answered_per_s == 5.0


def test_what_was_due_in_the_warm_up_is_in_no_figure() -> None:
    plan = Plan(rate="10", duration_s=10.0, warm_s=4.0)
    found = summarize(run([ok(n, 9.0 if n < 40 else 1.0) for n in range(100)], plan))
    assert (found.requests, found.offered_per_s, found.answered_per_s) == (60, 10.0, 10.0)
    assert found.latency is not None
    assert found.latency.max == 1.0
    assert found.tokens_per_s == pytest.approx(600 / 8)


def test_the_share_that_is_let_in_at_its_first_return() -> None:
    plan = Plan(rate="10", duration_s=10.0, obey_retry_after=True)
    records = [ok(0), ok(1, tries=[told()]), ok(2, tries=[told(), told()]), refused(3, tries=[told()]), refused(4)]
    seen = summarize(run(records, plan)).obeyed
    assert seen is not None
    assert (seen.refused_first, seen.came_again, seen.in_at_first) == (4, 3, 1)


def test_requests_that_were_due_all_at_once_have_rates_over_the_whole_run() -> None:
    assert summarize(run([ok(n) for n in range(6)], offered_s=0.0)).answered_per_s == 0.5


def test_one_request_after_the_warm_up_has_rates_over_the_rest_of_the_run() -> None:
    """It was due in no time at all, and had a rate of a thousand million."""
    found = summarize(run([ok(n) for n in range(11)], Plan(rate="10", warm_s=1.0), offered_s=1.0, span_s=3.0))
    assert (found.requests, found.offered_per_s, found.goodput_per_s) == (1, 0.5, 0.5)


def test_callers_tokens_per_second_add_up_to_those_of_all() -> None:
    """They were over the time in which requests were due, and all of them over the whole run."""
    records = [ok(n, caller="a" if n % 3 else "b") for n in range(30)]
    found = summarize(run(records, Plan(rate="10", callers=[CallerPlan("a"), CallerPlan("b")]), span_s=20.0))
    assert sum(caller.tokens_per_s for caller in found.callers) == pytest.approx(found.tokens_per_s)
    assert sum(caller.goodput_per_s for caller in found.callers) == pytest.approx(found.goodput_per_s)


def test_every_request_is_counted_once_and_each_reason_with_its_status() -> None:
    records = [
        ok(),
        refused(),
        refused(),
        Record(n=3, at_s=0, outcome=Outcome.ERROR, reason="cut", latency_s=1),
        Record(n=4, at_s=0, outcome=Outcome.ERROR, status=502, reason="engine_failed", latency_s=1),
        Record(n=5, at_s=0, outcome=Outcome.UNFINISHED, reason="run_ended", latency_s=9),
    ]
    found = summarize(run(records))
    assert (found.requests, found.answered, found.refused, found.errors, found.unfinished) == (6, 1, 2, 3, 1)
    assert found.by_reason == {"429 queue_full": 2, "502 engine_failed": 1, "cut": 1, "run_ended": 1}
    assert not found.met


def test_what_an_interrupted_run_left_is_not_held_against_anybody() -> None:
    left = Record(n=1, at_s=0, outcome=Outcome.UNFINISHED, reason="run_ended", latency_s=9)
    found = summarize(run([ok(), left], interrupted=True))
    assert (found.requests, found.errors, found.by_reason, found.met) == (1, 0, {}, True)
    assert "interrupted" in found.warnings[0]


def test_times_are_of_those_answered() -> None:
    found = summarize(run([ok(latency_s=2.0, ttft_s=0.5), refused(), refused()]))
    assert found.latency is not None
    assert (found.latency.count, found.latency.max) == (1, 2.0)
    assert found.ttft is not None
    assert found.ttft.p50 == 0.5


def test_inter_token_latency_is_of_gaps_and_time_per_token_of_tokens() -> None:
    found = summarize(run([ok(gaps_ms=[10.0, 30.0], tokens=5)]))
    assert found.inter_token is not None
    assert found.tpot is not None
    assert (found.inter_token.count, found.inter_token.max) == (2, 0.03)
    assert found.tpot.p50 == pytest.approx(0.01), "40 ms for the four tokens after the first"


def test_goodput_is_of_answers_within_every_bound() -> None:
    objectives = slo.parse({"latency_p95_s": 5, "ttft_p95_s": 1, "inter_token_p95_ms": 50}, "here")
    records = [
        ok(0, ttft_s=0.5, gaps_ms=[40.0, 60.0]),
        ok(1, ttft_s=1.5),
        ok(2, latency_s=5.1, ttft_s=0.5),
        ok(3, ttft_s=0.5, gaps_ms=[40.0, 61.0]),
        refused(4),
    ]
    found = summarize(run(records), objectives)
    assert (found.goodput, found.goodput_per_s) == (0.2, 0.1)


def test_other_objectives_than_the_runs_own_can_judge_it() -> None:
    of = run([ok(latency_s=2.0)])
    assert summarize(of).met
    assert not summarize(of, slo.parse({"latency_p95_s": 1}, "here")).met


def test_nothing_ended_is_not_met() -> None:
    assert not summarize(run([]), slo.parse({"tokens_per_s": 0}, "here")).met


def test_what_those_lived_through_who_obey_retry_after() -> None:
    records = [
        ok(0),
        ok(1, latency_s=1.5, tries=[told()]),
        ok(2, latency_s=3.5, tries=[told(), told(1.0), told(2.0)]),
        refused(3, tries=[told()]),
        refused(4),
    ]
    found = summarize(run(records, Plan(rate="10", obey_retry_after=True))).obeyed
    assert found is not None
    assert (found.refused_first, found.answered, found.refused_again) == (4, 2, 3)
    assert found.tries is not None
    assert found.latency is not None
    assert (found.tries.mean, found.tries.max, found.latency.max) == (3.0, 4.0, 3.5)
    assert summarize(run(records)).obeyed is None


def test_callers_have_their_own_figures_and_jains_index_between_them() -> None:
    plan = Plan(rate="10", callers=[CallerPlan("a", 3.0), CallerPlan("b"), CallerPlan("silent")])
    records = [*(ok(n, caller="a") for n in range(3)), ok(3, caller="b", tokens=30), refused(4, caller="b")]
    found = summarize(run(records, plan))
    assert [(c.name, c.requests, c.answered, c.refused, c.tokens) for c in found.callers] == [
        ("a", 3, 3, 0, 30),
        ("b", 2, 1, 1, 30),
        ("silent", 0, 0, 0, 0),
    ]
    assert found.jain_tokens == pytest.approx(2 / 3), "two alike and one with nothing"
    assert found.jain_answered == pytest.approx(1.5**2 / (2 * 1.25)), "who asked for nothing was denied nothing"


def test_a_client_that_was_late_or_busy_itself_is_warned_of() -> None:
    fine = summarize(run([ok(n, late_s=0.001) for n in range(100)], cpu_s=1.2, lags_ms=[1.0] * 12))
    assert fine.warnings == []
    late = summarize(run([ok(n, late_s=0.02) for n in range(100)], cpu_s=11.9, lags_ms=[80.0] * 12))
    assert ["late itself" in late.warnings[0], "99% of a core" in late.warnings[1], "loop" in late.warnings[2]] == [
        True,
        True,
        True,
    ]
    assert late.client.cpu == pytest.approx(11.9 / 12)


def test_a_closed_load_is_never_late() -> None:
    assert summarize(run([ok(late_s=0.5)], Plan(users=1))).client.late is None


RECORDS = st.lists(
    st.builds(
        Record,
        n=st.integers(0, 10**6),
        at_s=st.floats(0, 1e4),
        outcome=st.sampled_from(Outcome),
        latency_s=st.floats(0, 1e4),
        late_s=st.floats(0, 10),
        caller=st.sampled_from(["anonymous", "b", "ünïcode"]),
        status=st.sampled_from([0, 200, 429, 502]),
        reason=st.text(max_size=5),
        ttft_s=st.one_of(st.none(), st.floats(0, 1e4)),
        tokens=st.integers(0, 10**4),
        gaps_ms=st.lists(st.floats(0, 1e4), max_size=4),
        tries=st.lists(st.builds(told), max_size=2),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(RECORDS, st.booleans())
def test_the_books_balance(records: list[Record], interrupted: bool) -> None:
    found = summarize(run(records, interrupted=interrupted))
    assert found.requests == found.answered + found.refused + found.errors
    assert sum(found.by_reason.values()) == found.refused + found.errors
    assert sum(caller.requests for caller in found.callers) == found.requests
    assert sum(caller.tokens for caller in found.callers) <= found.tokens
    assert found.goodput_per_s <= found.answered_per_s <= found.offered_per_s


@pytest.mark.parametrize("name", ["a.jsonl", "sub/a.jsonl.gz"])
@settings(deadline=None)
@given(records=RECORDS)
def test_what_was_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("raw") / name
    written = run(records, lags_ms=[1.0])
    raw.write(path, written)
    read = raw.read(path)
    assert (read.header, read.records, read.end) == (written.header, written.records, written.end)
    assert read.source == path.name


def test_a_raw_file_of_a_newer_or_an_older_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    raw.write(path, run([ok()]))
    text = path.read_text()
    path.write_text(text.replace('"kind":"request",', '"kind":"request","new_field":[1],'))
    assert len(raw.read(path).records) == 1
    path.write_text(text.replace('"schema":1', '"schema":99'))
    with pytest.raises(BadFile, match="schema 99"):
        raw.read(path)


def test_an_objective_of_a_newer_version_is_not_measured() -> None:
    (one,) = summarize(run([ok()]), [Objective("joy_p95_s", 1.0)]).objectives
    assert (one.met, one.note) == (None, "an objective that this Headgate doesn't know")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: lines[1:], "no first line"),
        (lambda lines: lines[:-1], "cut short"),
        (lambda lines: ["<html>", *lines], "line 1"),
        (lambda lines: [], "no first line"),
        (lambda lines: [*lines, *lines], "line 4 comes after its last: a file holds one run"),
        (lambda lines: [*lines[:-1], *lines], "line 3 begins another run"),
        (lambda lines: [lines[0], re.sub(r'"latency_s":[^,]+', '"latency_s":1e300', lines[1]), lines[2]], "line 2"),
    ],
)
def test_what_is_no_raw_file_is_one_line(tmp_path: Path, change: Any, why: str) -> None:
    path = tmp_path / "a.jsonl"
    raw.write(path, run([ok()]))
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(BadFile, match=why) as caught:
        raw.read(path)
    assert "\n" not in str(caught.value)


def test_a_raw_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    """Ctrl-C while it was written left half of it, and where it replaced another, half of that."""
    path = tmp_path / "run.jsonl.gz"
    raw.write(path, run([ok()]))
    broken = run([ok(), object()])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        raw.write(path, broken)
    assert len(raw.read(path).records) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_raw_file_that_is_not_there_or_not_compressed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="No such file"):
        raw.read(tmp_path / "none.jsonl")
    (tmp_path / "a.gz").write_text("no")
    with pytest.raises(BadFile, match="gzip"):
        raw.read(tmp_path / "a.gz")
    whole = gzip.compress(b"line of a raw file\n" * 99)
    for damaged in (whole[:-9], whole[:10] + b"\xff" + whole[11:]):
        (tmp_path / "a.gz").write_bytes(damaged)
        with pytest.raises(BadFile, match=r"a\.gz"):
            raw.read(tmp_path / "a.gz")


def test_who_has_no_answer_begun_after_the_bound_is_starved_and_who_was_refused_in_time_is_not() -> None:
    plan = Plan(rate="10", duration_s=10.0, starved_s=5.0)
    records = [ok(0, 9.0, ttft_s=4.0), ok(1, 9.0, ttft_s=6.0), refused(2), refused(3)]
    records[3] = Record(n=3, at_s=0.3, outcome=Outcome.REFUSED, status=503, reason="queue_timeout", latency_s=30.0)
    assert summarize(run(records, plan)).callers[0].starved == 2
