"""Fewer, larger events: asked for while an engine's front is behind and somebody waits, within the objective."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.interval import (
    CALM_S,
    ITL_S,
    JOINED_S,
    KNOWN,
    NO_STREAMS,
    OBEYED,
    REFUSED,
    SHARE,
    STAY_S,
    Interval,
    Streams,
    Told,
)

STREAMS = 1_000.0
"""Gaps, and events, in a second."""
FIRST = int(JOINED_S)
"""Seconds until it begins."""


def second(
    *, wanted: bool = True, joined: float = 1.5, gap_s: float = 0.02, events: float = STREAMS, seconds: float = 1.0
) -> Told:
    return Told(seconds, wanted, Streams(joined * events, events), gap_s * STREAMS, STREAMS)


def asked(events: float = 0.0, expected: float = 0.0, refused: float = 0.0) -> Told:
    """A second in which streams ended that were to have larger events."""
    streams = Streams(asked_events=events, expected=expected, refused=refused)
    return Told(1.0, True, streams, 0.02 * STREAMS, STREAMS)


def begun(most: int = 8, itl_s: float | None = 0.1, *, gap_s: float = 0.02) -> Interval:
    """One that asks for larger events, or would."""
    interval = Interval(most, itl_s=itl_s)
    for _ in range(FIRST):
        assert interval.tokens == 1
        interval.read(second(gap_s=gap_s))
    return interval


def test_is_one_while_each_event_has_a_token() -> None:
    interval = Interval(8, itl_s=0.1)
    assert [interval.read(second(joined=1.0)) for _ in range(100)] == [1] * 100
    assert [interval.read(second(joined=1.1)) for _ in range(100)] == [1] * 100


def test_is_one_while_nobody_waits() -> None:
    interval = Interval(8, itl_s=0.1)
    assert [interval.read(second(wanted=False, joined=3.0)) for _ in range(100)] == [1] * 100


def test_is_asked_for_where_tokens_come_joined_for_a_while_and_somebody_waits() -> None:
    assert begun(gap_s=0.02).tokens == 3  # 75 ms, three times 20


def test_who_stumbles_once_is_asked_for_nothing() -> None:
    interval = Interval(8, itl_s=0.1)
    for _ in range(20):
        for _ in range(20):
            assert interval.read(second(joined=1.0)) == 1
        assert interval.read(second(joined=1.6)) == 1


def test_a_few_events_say_nothing() -> None:
    interval = Interval(8, itl_s=0.1)
    for _ in range(100):
        assert interval.read(second(joined=2.0, events=KNOWN / 6)) == 1


@pytest.mark.parametrize(
    ("gap_s", "itl_s", "tokens"),
    [
        (0.02, 0.1, 3),
        (0.01, 0.1, 7),
        (0.001, 0.1, 8),
        (0.04, 0.1, 1),
        (0.09, 0.1, 1),
        (0.02, 0.2, 7),
        (0.02, None, 3),
    ],
)
def test_is_within_the_objective(gap_s: float, itl_s: float | None, tokens: int) -> None:
    assert begun(8, itl_s, gap_s=gap_s).tokens == tokens


def test_an_engine_that_tells_no_times_is_asked_for_nothing() -> None:
    interval = Interval(8, itl_s=0.1)
    for _ in range(20):
        assert interval.read(Told(1.0, True, Streams(9_000, 1_000), 0.0, 0.0)) == 1


def test_one_that_does_as_it_is_asked_is_known_to() -> None:
    interval = begun()
    assert interval.is_obeyed is None
    interval.read(asked(events=KNOWN - 1, expected=KNOWN - 1))
    assert interval.is_obeyed is None
    for _ in range(10):
        assert interval.read(asked(events=400, expected=400)) == 3
        assert interval.is_obeyed
    interval.read(asked(events=0.9 * OBEYED * 40_000, expected=40_000))
    assert interval.is_obeyed


def test_one_that_does_not_know_what_it_is_asked_for_is_not_asked_again() -> None:
    interval = begun()
    assert interval.read(asked(events=KNOWN - 1, expected=50)) == 3
    assert interval.read(asked(events=KNOWN, expected=50)) == 1
    assert interval.is_obeyed is False
    for _ in range(100):
        assert interval.read(second(joined=3.0)) == 1


def test_one_that_calls_it_wrong_is_not_asked_again() -> None:
    interval = begun()
    assert interval.read(asked(refused=REFUSED - 1)) == 3
    assert interval.read(asked(refused=1)) == 1
    for _ in range(100):
        assert interval.read(second(joined=3.0)) == 1


def test_requests_that_are_wrong_by_themselves_say_nothing_of_an_engine_that_answers_others() -> None:
    interval = begun()
    interval.read(asked(events=10, expected=10))
    for _ in range(20):
        assert interval.read(asked(refused=10)) == 3


@pytest.mark.parametrize("per_event", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("tokens", [16, 32, 64, 65, 1_000])
@pytest.mark.parametrize("sequences", [1, 3])
def test_what_vllm_makes_of_it_is_what_is_expected(per_event: int, role: int, tokens: int, sequences: int) -> None:
    """The first by itself, then so many at a time, and what is left: as vLLM's output processor has it."""
    events = sequences * (role + 1 + -(-(tokens - 1) // per_event))
    streams = NO_STREAMS.and_one_asked(sequences * tokens, events, per_event=per_event, sequences=sequences)
    assert (streams.tokens, streams.events) == (0, 0)
    assert streams.asked_events == events <= OBEYED * streams.expected
    passed_over = sequences * (role + tokens)
    if tokens >= 16 * per_event:
        assert passed_over > OBEYED * streams.expected


def test_streams_are_counted_by_what_was_asked_for_them() -> None:
    before = NO_STREAMS.and_one(64, 40, sequences=1)
    now = before.and_one(10, 9, sequences=1).and_one_asked(64, 18, per_event=4, sequences=1).and_one_refused()
    assert now.since(before) == Streams(9, 9, 18, 18.5, 1)


def test_short_answers_whose_last_token_has_no_event_are_not_joined() -> None:
    streams = NO_STREAMS.and_one(4, 3, sequences=1)
    assert streams.tokens == streams.events


def test_what_nobody_can_count_is_not_counted() -> None:
    streams = NO_STREAMS.and_one(10**400, 1, sequences=1).and_one_asked(10**400, 1, per_event=2, sequences=1)
    assert streams.tokens < 1e10 > streams.expected


def ends_after(interval: Interval, *, wanted: bool) -> int:
    """For how many seconds it goes on, and asks for less then."""
    for seconds in range(1, 10_000):
        if interval.read(second(wanted=wanted, joined=1.0)) == 1:
            return seconds
    raise AssertionError("it never ended")


def test_ends_when_nobody_has_waited_for_a_while() -> None:
    assert ends_after(begun(), wanted=False) == CALM_S


def test_ends_now_and_then_to_see_whether_it_is_needed_still() -> None:
    interval = begun()
    assert ends_after(interval, wanted=True) == STAY_S
    for _ in range(300):  # and where it isn't, it isn't asked for again
        assert interval.read(second(joined=1.0)) == 1


def test_what_was_before_is_no_sign_of_now() -> None:
    interval = begun()
    for _ in range(int(STAY_S)):
        interval.read(second(joined=5.0))
    assert interval.tokens == 1
    for _ in range(10):
        assert interval.read(second(joined=1.1)) == 1


@pytest.mark.parametrize(("wanted", "first"), [(True, STAY_S), (False, CALM_S)])
def test_stays_longer_each_time_that_it_begins_again_soon(*, wanted: bool, first: float) -> None:
    interval = Interval(8, itl_s=0.1)
    took = []
    for _ in range(7):
        while interval.read(second(joined=5.0)) == 1:
            pass
        took.append(ends_after(interval, wanted=wanted))
    assert took == [first * times for times in (1, 2, 4, 8, 16, 16, 16)]
    for _ in range(int(STAY_S)):
        interval.read(second(wanted=False, joined=1.0))
    while interval.read(second(joined=5.0)) == 1:
        pass
    assert ends_after(interval, wanted=wanted) == first


@given(
    st.lists(
        st.builds(
            Told,
            seconds=st.floats(0.1, 10),
            wanted=st.booleans(),
            streams=st.builds(Streams, *[st.floats(0, 1e6)] * 5),
            gaps_s=st.floats(0, 1e4),
            gaps=st.floats(0, 1e6),
        ),
        max_size=50,
    ),
    st.integers(1, 64),
    st.none() | st.floats(1e-3, 10),
)
def test_is_never_less_than_one_nor_over_the_most_nor_past_the_objective(
    told: list[Told], most: int, itl_s: float | None
) -> None:
    interval = Interval(most, itl_s=itl_s)
    for each in told:
        tokens = interval.read(each)
        assert 1 <= tokens <= most
        assert tokens == interval.tokens
        assert interval.is_obeyed is not False or tokens == 1
        if len(told) == 1 and tokens > 1:
            assert tokens * each.gaps_s / each.gaps <= SHARE * (itl_s or ITL_S) * (1 + 1e-9)
