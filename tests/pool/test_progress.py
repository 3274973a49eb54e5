"""Health by progress: what counts as a hang, and what does not."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.pool.progress import Counters, Progress, Sample, observe

WEDGED_AFTER_S = 60.0
STEP_S = 2.0


def fold(*samples: Sample) -> Progress:
    progress = functools.reduce(observe, samples, None)
    assert progress is not None
    return progress


def every_two_seconds(
    *looks: tuple[int, int, Counters | None],
) -> list[Sample]:
    return [Sample(at * STEP_S, *look) for at, look in enumerate(looks)]


STILL = Counters(10, 100, 1)


def test_work_and_no_progress_for_so_long_is_a_hang_and_not_a_moment_earlier() -> None:
    samples = every_two_seconds(*[(1, 7, STILL)] * 31)
    assert fold(*samples).is_wedged(WEDGED_AFTER_S)
    assert not fold(*samples[:-1]).is_wedged(WEDGED_AFTER_S)


def test_an_engine_that_stops_answering_is_wedged_by_what_it_said_before() -> None:
    assert fold(*every_two_seconds((1, 7, STILL), *[(1, 7, None)] * 30)).is_wedged(WEDGED_AFTER_S)


def test_an_engine_that_never_showed_a_counter_is_never_wedged() -> None:
    for blind in (None, Counters()):
        assert not fold(*every_two_seconds(*[(1, 7, blind)] * 500)).is_wedged(WEDGED_AFTER_S)


def test_callers_who_give_up_and_come_back_do_not_hide_a_hang() -> None:
    half_a_minute = [(1, 7, STILL)] * 15 + [(0, 7, STILL)]
    assert fold(*every_two_seconds(*half_a_minute * 3)).is_wedged(WEDGED_AFTER_S)


def test_time_without_work_is_no_stall() -> None:
    idle = every_two_seconds(*[(0, 7, STILL)] * 1000)
    just_come = Sample(idle[-1].now_s + STEP_S, 1, 7, STILL)
    assert fold(*idle, just_come).stalled_s == 0.0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from(["iteration", "generation", "running", "relayed"]), st.booleans()),
        min_size=25,
        max_size=80,
    )
)
def test_an_engine_in_which_anything_moves_every_minute_is_never_wedged(
    steps: list[tuple[int, str, bool]],
) -> None:
    counts = dict.fromkeys(("iteration", "generation", "running", "relayed"), 0)
    progress: Progress | None = None
    for at, (in_flight, moved, is_scraped) in enumerate(steps):
        # One thing moves at least every 20 looks of 2 s; a scrape that fails may hide it only until the next.
        if at % 20 == 0:
            counts[moved] += 1
        seen = Counters(counts["iteration"], counts["generation"], counts["running"])
        scraped = seen if is_scraped or at % 20 == 0 else None
        progress = observe(progress, Sample(at * STEP_S, in_flight, counts["relayed"], scraped))
        assert not progress.is_wedged(WEDGED_AFTER_S)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 10)), min_size=2, max_size=50))
def test_the_stall_is_exactly_the_time_with_work_since_the_last_progress(
    looks: list[tuple[int, float]],
) -> None:
    now_s, expected_s = 0.0, 0.0
    progress = observe(None, Sample(now_s, 0, 0, STILL))
    for in_flight, step_s in looks:
        if progress.last.in_flight > 0:
            expected_s += step_s
        now_s += step_s
        progress = observe(progress, Sample(now_s, in_flight, 0, STILL))
    assert abs(progress.stalled_s - expected_s) < 1e-6
