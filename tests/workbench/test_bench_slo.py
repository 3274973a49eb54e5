from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workbench.bench import slo, tables
from headgate.workbench.bench.figures import Spread, spread
from headgate.workbench.bench.raw import Objective


def seen(
    latency_s: list[float], errors: int = 0, refused: int = 0, goodput: float | None = None, tokens_per_s: float = 0.0
) -> slo.Seen:
    times: dict[str, Spread | None] = dict.fromkeys(("ttft", "inter_token", "tpot"))
    ended = len(latency_s) + errors + refused
    return slo.Seen({**times, "latency": spread(latency_s)}, errors, refused, ended, goodput, 1.0, tokens_per_s)


def verdicts(objectives: dict[str, object], of: slo.Seen) -> list[bool | None]:
    return [one.met for one in slo.judge(slo.parse(objectives, "here"), of)]


def test_the_default_is_five_seconds_for_95_of_100_and_one_error_in_a_thousand() -> None:
    assert [(o.name, o.bound) for o in slo.DEFAULT] == [("latency_p95_s", 5.0), ("errors_percent", 0.1)]
    good = [1.0] * 95 + [60.0] * 5
    assert slo.met(slo.judge(slo.DEFAULT, seen(good)))
    assert not slo.met(slo.judge(slo.DEFAULT, seen([1.0] * 94 + [60.0] * 6)))
    assert slo.met(slo.judge(slo.DEFAULT, seen([1.0] * 999, errors=1)))
    assert not slo.met(slo.judge(slo.DEFAULT, seen([1.0] * 998, errors=2)))


def test_a_bound_may_be_reached() -> None:
    assert verdicts({"latency_p95_s": 5}, seen([5.0])) == [True]
    assert verdicts({"latency_max_ms": 5000}, seen([5.001])) == [False]


def test_a_refusal_is_an_error_unless_refusals_have_a_bound_of_their_own() -> None:
    of = seen([1.0] * 90, refused=10)
    assert verdicts({"errors_percent": 1}, of) == [False]
    assert verdicts({"errors_percent": 1, "refusals_percent": 10}, of) == [True, True]
    assert verdicts({"errors_percent": 1, "refusals_percent": 9}, of) == [True, False]


def test_the_verdict_says_refusals_where_they_are_what_was_too_many() -> None:
    """`18 refused, 0 errors`, and then `errors 69.2 %`."""
    of = seen([1.0] * 8, refused=18)
    [together] = slo.judge(slo.parse({"errors_percent": 0.1}, "here"), of)
    assert tables.words_of(together) == "errors and refusals 69.2 %, at most 0.1 %"
    assert together.note == "18 of 26, 18 refused, 0 errors"
    [apart, _] = slo.judge(slo.parse({"errors_percent": 0.1, "refusals_percent": 5}, "here"), of)
    assert tables.words_of(apart) == "errors 0 %, at most 0.1 %"


def test_what_could_not_be_measured_was_not_met() -> None:
    of = seen([1.0] * 10)
    assert verdicts({"ttft_p95_s": 1}, of) == [None]
    assert not slo.met(slo.judge(slo.parse({"ttft_p95_s": 1}, "here"), of))
    assert not slo.met(slo.judge(slo.DEFAULT, seen([])))


def test_a_lower_bound_is_one() -> None:
    of = seen([1.0], goodput=0.9, tokens_per_s=500.0)
    assert verdicts({"goodput_percent": 90, "tokens_per_s": 501, "requests_per_s": 1}, of) == [True, False, True]


def test_one_good_answer_is_within_the_strictest_bound_of_each_time_in_any_unit() -> None:
    good = slo.good(slo.parse({"latency_p95_s": 5, "latency_p50_ms": 900, "inter_token_p95_ms": 100}, "here"))
    assert good == slo.Good(latency_s=0.9, inter_token_s=0.1)
    assert good.met(0.9, None, None, None), "a whole reply has no first token"
    assert good.met(0.9, 99.0, 0.1, 99.0), "nothing is asked of these"
    assert not good.met(0.9, None, 0.11, None)


BOUND = st.floats(0.001, 100)
TIME = st.one_of(st.none(), st.floats(0, 100))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), TIME, TIME, TIME), max_size=50), BOUND, BOUND, st.floats(1, 10))
def test_a_looser_slo_never_has_less_goodput(
    answers: list[tuple[float, float | None, float | None, float | None]],
    latency_s: float,
    ttft_s: float,
    looser: float,
) -> None:
    strict = slo.Good(latency_s=latency_s, ttft_s=ttft_s)
    loose = slo.Good(latency_s=latency_s * looser, ttft_s=ttft_s * looser)
    assert sum(strict.met(*answer) for answer in answers) <= sum(loose.met(*answer) for answer in answers)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=100), BOUND)
def test_the_verdict_on_the_worst_implies_that_on_every_percentile(latency_s: list[float], bound: float) -> None:
    names = [f"latency_{at}_s" for at in ("max", "p999", "p99", "p95", "p90", "p50")]
    found = [bool(one.met) for one in slo.judge([Objective(name, bound) for name in names], seen(latency_s))]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("latency_p95 = 5", "there is no objective 'latency_p95'"),
        ("latency_p42_s = 5", "there is no objective"),
        ("errors = 0.1", "errors_percent"),
        ("latency_p95_s = '5'", "must be a number"),
        ("latency_p95_s = true", "must be a number"),
        ("latency_p95_s = -1", "at least 0"),
        ("latency_p95_s = nan", "must be a number"),
        ("[latency]\np95 = 5", "there is no objective 'latency'"),
        ("", "no objective in it"),
        ("latency_p95_s =", "Invalid"),
        (f"latency_p95_s = {'9' * 400}", "must be a number"),
        (f"latency_p95_s = {'9' * 5000}", "not TOML"),
        (f"latency_p95_s = {'[' * 5000}", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_that_says_where(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(slo.BadSlo, match=why) as caught:
        slo.read(path)
    assert "slo.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_read_and_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "slo.toml"
    path.write_text("latency_p95_s = 5.0\nerrors_percent = 0.1\nttft_p95_s = 1\ninter_token_p95_ms = 100\n")
    assert [objective.bound for objective in slo.read(path)] == [5.0, 0.1, 1.0, 100.0]
    with pytest.raises(slo.BadSlo, match="No such file"):
        slo.read(tmp_path / "none.toml")
