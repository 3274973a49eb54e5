"""Fewer, larger events: asked for while an engine's front is behind and somebody waits, within the objective."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.interval import CALM_MOST_S, CALM_S, ITL_S, KNOWN, NO_STREAMS, OBEYED, SHARE, Interval, Streams, Told

STREAMS = 1_000.0
"""Gaps, and events, in a second."""


def second(
    *, wanted: bool = True, joined: float = 1.5, gap_s: float = 0.02, events: float = STREAMS, seconds: float = 1.0
) -> Told:
    return Told(seconds, wanted, Streams(joined * events, events), gap_s * STREAMS, STREAMS)


def asked(events: float, expected: float) -> Told:
    """A second in which streams ended that were to have larger events."""
    return Told(1.0, True, Streams(asked_events=events, expected=expected), 0.02 * STREAMS, STREAMS)


def test_is_one_while_each_event_has_a_token() -> None:
    interval = Interval(8, itl_s=0.1)
    assert [interval.read(second(joined=1.0)) for _ in range(100)] == [1] * 100
    assert interval.read(second(joined=1.1)) == 1


def test_is_one_while_nobody_waits() -> None:
    interval = Interval(8, itl_s=0.1)
    assert [interval.read(second(wanted=False, joined=3.0)) for _ in range(100)] == [1] * 100


def test_is_asked_for_where_tokens_come_joined_and_somebody_waits() -> None:
    interval = Interval(8, itl_s=0.1)
    assert interval.read(second(gap_s=0.02)) == 3  # 75 ms, three times 20
    assert interval.tokens == 3


def test_a_few_events_say_nothing() -> None:
    interval = Interval(8, itl_s=0.1)
    assert interval.read(second(joined=2.0, events=KNOWN - 1)) == 1
    assert interval.read(second(joined=2.0, events=KNOWN - 1)) > 1


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
    assert Interval(8, itl_s=itl_s).read(second(gap_s=gap_s)) == tokens


def test_an_engine_that_tells_no_times_is_asked_for_nothing() -> None:
    assert Interval(8, itl_s=0.1).read(Told(1.0, True, Streams(9_000, 1_000), 0.0, 0.0)) == 1


def test_goes_on_while_somebody_waits_though_nothing_is_joined_any_more() -> None:
    """What is asked for has as many tokens as were asked for, which says nothing of the front."""
    interval = Interval(8, itl_s=0.1)
    interval.read(second())
    for _ in range(300):
        assert interval.read(second(joined=0.0, events=0.0)) == 3


def test_one_that_does_as_it_is_asked_is_asked_on() -> None:
    interval = Interval(8, itl_s=0.1)
    interval.read(second())
    for _ in range(100):
        assert interval.read(asked(events=400, expected=400)) == 3
    assert interval.read(asked(events=0.9 * OBEYED * 40_000, expected=40_000)) == 3


def test_one_that_does_not_know_what_it_is_asked_for_is_not_asked_again() -> None:
    interval = Interval(8, itl_s=0.1)
    interval.read(second())
    assert interval.read(asked(events=KNOWN - 1, expected=50)) == 3
    assert interval.read(asked(events=KNOWN, expected=50)) == 1
    for _ in range(100):
        assert interval.read(second(joined=3.0)) == 1


@pytest.mark.parametrize("per_event", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("tokens", [16, 32, 64, 65, 1_000])
@pytest.mark.parametrize("sequences", [1, 3])
def test_what_vllm_makes_of_it_is_what_is_expected(per_event: int, role: int, tokens: int, sequences: int) -> None:
    """The first by itself, then so many at a time, and what is left: as vLLM's output processor has it."""
    events = sequences * (role + 1 + -(-(tokens - 1) // per_event))
    streams = NO_STREAMS.and_one(sequences * tokens, events, per_event=per_event, sequences=sequences)
    assert (streams.tokens, streams.events) == (0, 0)
    assert streams.asked_events == events <= OBEYED * streams.expected
    passed_over = sequences * (role + tokens)
    if tokens >= 16 * per_event:
        assert passed_over > OBEYED * streams.expected


def test_streams_for_which_nothing_was_asked_are_counted_by_themselves() -> None:
    before = NO_STREAMS.and_one(64, 40, per_event=1, sequences=1)
    now = before.and_one(10, 9, per_event=1, sequences=1).and_one(64, 18, per_event=4, sequences=1)
    assert now.since(before) == Streams(10, 9, 18, 18.5)


def calm(interval: Interval) -> int:
    """For how many seconds nobody must have waited for it to end."""
    for seconds in range(1, 1_000):
        if interval.read(second(wanted=False, joined=1.0)) == 1:
            return seconds
    raise AssertionError("it never ended")


def test_ends_when_nobody_has_waited_for_a_while() -> None:
    interval = Interval(8, itl_s=0.1)
    interval.read(second())
    assert calm(interval) == CALM_S


def test_stays_longer_each_time_that_it_begins_again_soon() -> None:
    interval = Interval(8, itl_s=0.1)
    took = []
    for _ in range(7):
        for _ in range(5):
            interval.read(second(joined=5.0))
        took.append(calm(interval))
    assert took == [CALM_S, 2 * CALM_S, 4 * CALM_S, 8 * CALM_S, CALM_MOST_S, CALM_MOST_S, CALM_MOST_S]
    for _ in range(int(CALM_MOST_S)):
        interval.read(second(wanted=False, joined=1.0))
    while interval.read(second(joined=5.0)) == 1:
        pass
    assert calm(interval) == CALM_S


@given(
    st.lists(
        st.builds(
            Told,
            seconds=st.floats(0.1, 10),
            wanted=st.booleans(),
            streams=st.builds(Streams, st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)),
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
        if len(told) == 1 and tokens > 1:
            assert tokens * each.gaps_s / each.gaps <= SHARE * (itl_s or ITL_S) * (1 + 1e-9)
