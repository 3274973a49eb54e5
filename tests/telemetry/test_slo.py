"""The verdict on a request: what is judged at all, and which miss is named."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.api.problems import STATUS
from headgate.errors import Reason
from headgate.telemetry.slo import LEFT, OK, Objectives, Verdict, judge

SECONDS = st.floats(0, 1000)
MAYBE = st.none() | SECONDS
OBJECTIVES = st.builds(Objectives, ttft_s=MAYBE, itl_s=MAYBE, latency_s=MAYBE)
MEASURED = st.fixed_dictionaries({"ttft_s": MAYBE, "itl_s": MAYBE, "latency_s": SECONDS})
WORSE = [Verdict.TTFT, Verdict.ITL, Verdict.LATENCY, Verdict.MET]
"""In the order in which they are looked at: what is found first is named."""


def answered(objectives: Objectives, took: dict[str, Any]) -> Verdict | None:
    return judge(objectives, reason=OK, began=True, **took)


@given(objectives=OBJECTIVES, took=MEASURED)
def test_met_means_that_nothing_asked_for_was_missed_and_a_miss_names_the_first(
    objectives: Objectives, took: dict[str, Any]
) -> None:
    missed = [
        verdict
        for verdict, name in ((Verdict.TTFT, "ttft_s"), (Verdict.ITL, "itl_s"), (Verdict.LATENCY, "latency_s"))
        if (limit_s := getattr(objectives, name)) is not None and took[name] is not None and took[name] > limit_s
    ]
    assert answered(objectives, took) == (missed[0] if missed else Verdict.MET)


@given(objectives=OBJECTIVES, took=MEASURED, by_s=SECONDS, which=st.sampled_from(["ttft_s", "itl_s", "latency_s"]))
def test_slower_is_never_better(objectives: Objectives, took: dict[str, Any], by_s: float, which: str) -> None:
    if took[which] is None:
        return
    before, after = answered(objectives, took), answered(objectives, {**took, which: took[which] + by_s})
    assert before is not None
    assert after is not None
    assert WORSE.index(after) <= WORSE.index(before)


@given(took=MEASURED, value=SECONDS)
def test_exactly_the_objective_is_met(took: dict[str, Any], value: float) -> None:
    exact = {name: None if took[name] is None else value for name in took}
    assert answered(Objectives(value, value, value), exact) == Verdict.MET


@given(objectives=OBJECTIVES, took=MEASURED, began=st.booleans(), reason=st.sampled_from([*Reason, LEFT]))
def test_what_was_not_answered_is_not_judged_by_its_times(
    objectives: Objectives, took: dict[str, Any], began: bool, reason: str
) -> None:
    verdict = judge(objectives, reason=reason, began=began, **took)
    assert verdict in (None, Verdict.FAILED if began else Verdict.REFUSED)


@pytest.mark.parametrize("reason", list(Reason))
def test_reason_is_ours_to_answer_for_exactly_where_its_status_says_so(reason: Reason) -> None:
    """A new reason whose status is 429 or 5xx counts against the objectives without being listed anywhere.

    But for a caller that asks for more than it may: it could ruin the figures of a gateway that serves well.
    """
    ours = STATUS[reason] >= 500 or (STATUS[reason] == 429 and reason is not Reason.RATE_LIMITED)
    verdict = judge(Objectives(), reason=reason, began=False, ttft_s=None, itl_s=None, latency_s=0.0)
    assert verdict == (Verdict.REFUSED if ours else None)


def test_client_that_left_says_nothing() -> None:
    for began in (True, False):
        assert judge(Objectives(), reason=LEFT, began=began, ttft_s=9, itl_s=9, latency_s=9) is None


def test_objectives_in_force_are_named_as_their_verdicts() -> None:
    assert Objectives().in_force() == {}
    assert Objectives(1, 0.1, 5).in_force() == {"ttft": 1, "itl": 0.1, "latency": 5}
    for some in itertools.product((None, 2.0), repeat=3):
        assert len(Objectives(*some).in_force()) == sum(value is not None for value in some)


@given(objectives=OBJECTIVES, took=MEASURED)
def test_who_waited_for_its_own_key_is_judged_by_failures_alone(objectives: Objectives, took: dict[str, Any]) -> None:
    def verdict(reason: str, *, began: bool) -> Verdict | None:
        return judge(objectives, reason=reason, began=began, for_own=True, **took)

    assert verdict(OK, began=True) is None
    assert verdict(Reason.QUEUE_TIMEOUT, began=False) is None
    assert verdict(Reason.REQUEST_TIMEOUT, began=True) == Verdict.FAILED
    assert verdict(Reason.ENGINE_FAILED, began=False) == Verdict.REFUSED
