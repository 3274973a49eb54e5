"""The controller of MAX_ACTIVE=auto, reading by reading. Whether it finds the right number is in test_goodput."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.estimate import Estimate
from headgate.gate.limits import DOWN_MOST, SETTLE_S, UP_MOST, VAIN_AFTER_S, VAIN_SLOTS, Limit, Reading
from headgate.gate.timely import first_within_s

CALM = Reading(1.0, active=100, wanted=True, gaps_s=5.0, gaps=100, firsts_s=1.0, firsts=10, running=100, waiting=0)
"""100 slots held, tokens each 50 ms, first tokens after 0.1 s."""


def a_limit(most: int = 100) -> Limit:
    return Limit(most, itl_s=0.1, ttft_s=1.0)


def test_it_starts_at_what_the_engine_schedules_and_stays_while_all_is_well() -> None:
    limit = a_limit()
    assert [limit.read(CALM) for _ in range(10)] == [100] * 10
    assert limit.why == "start"


def test_slow_tokens_take_slots_away_at_once_and_then_it_waits_for_the_effect() -> None:
    limit = a_limit()
    slow = CALM._replace(gaps_s=20.0)
    down = limit.read(slow)
    assert 75 <= down < 100
    assert limit.why == "itl"
    assert [limit.read(slow) for _ in range(int(SETTLE_S) - 1)] == [down] * 3
    assert limit.read(slow) < down


def test_late_first_tokens_take_slots_away() -> None:
    limit = a_limit()
    assert limit.read(CALM._replace(firsts_s=8.0)) < 100
    assert limit.why == "ttft"


def firsts(*, mean_s: float, deviation_s: float, number: int) -> Reading:
    """All is well but for first tokens of that kind."""
    square_s2 = mean_s**2 + deviation_s**2
    return CALM._replace(firsts_s=mean_s * number, firsts_s2=square_s2 * number, firsts=number)


def test_first_tokens_may_take_more_of_their_time_where_they_are_alike_and_many_come() -> None:
    """0.6 of 1 s: too much for a line that needs time for somebody to come, none too much where 100 come a second."""
    many, few = firsts(mean_s=0.6, deviation_s=0.05, number=100), firsts(mean_s=0.6, deviation_s=0.05, number=4)
    limit = a_limit()
    for _ in range(10):
        limit.read(many)
    assert limit.why == "start"
    assert a_limit().read(few) < 100
    assert a_limit().read(firsts(mean_s=0.6, deviation_s=0.2, number=100)) < 100, "one in twenty would take 1 s"
    assert a_limit().read(firsts(mean_s=0.9, deviation_s=0.0, number=1000)) < 100, "the line has a fifth in any case"


def test_while_nobody_waits_first_tokens_may_take_nearly_all_of_their_time() -> None:
    """On vLLM at its peak they took 0.7 s, all in time; slots were taken away for it, and a line made many late."""
    alone = firsts(mean_s=0.7, deviation_s=0.1, number=100)._replace(wanted=False)
    limit = a_limit()
    assert limit.read(alone) == 100
    assert limit.read(alone._replace(wanted=True)) < 100
    late_soon = firsts(mean_s=0.85, deviation_s=0.1, number=100)._replace(wanted=False)
    assert a_limit().read(late_soon) < 100


def test_long_answers_take_slots_away_where_the_whole_has_an_objective() -> None:
    """Half take 2 s and half 4 s: 4.3 s for a long one, and the line leaves 3.5 of 4 s."""
    limit = Limit(100, itl_s=0.1, ttft_s=1.0, latency_s=4.0)
    calm = CALM._replace(holds_s=15.0, holds_s2=25.0, holds=10)
    assert limit.read(calm._replace(holds_s=30.0, holds_s2=100.0)) < 100
    assert limit.why == "latency"
    assert a_limit().read(calm._replace(holds_s=30.0, holds_s2=100.0)) == 100, "without one it says nothing"
    assert Limit(100, itl_s=0.1, ttft_s=1.0, latency_s=4.0).read(calm) == 100


def test_the_line_gets_what_long_answers_leave_of_the_whole_and_an_eighth_of_it_always() -> None:
    assert first_within_s(1.0, None, 50.0) == 1.0
    assert first_within_s(1.0, 4.0, 2.0) == 1.0
    assert first_within_s(1.0, 4.0, 3.25) == 0.75
    assert first_within_s(1.0, 4.0, 9.0) == 0.5
    assert first_within_s(None, 4.0, 1.0) == 3.0, "a whole reply"
    assert first_within_s(None, None, 1.0) == inf


def test_preemptions_take_slots_away_and_their_number_is_remembered() -> None:
    limit = a_limit(200)
    full = CALM._replace(active=200, running=150.0)
    down = limit.read(full._replace(preempted=3))
    assert down < 150
    assert limit.why == "preemptions"
    ups = [limit.read(CALM._replace(active=limit.slots)) for _ in range(60)]
    assert ups[-1] <= down + 20, "it comes back to that number slowly"


def test_a_number_at_which_it_preempted_does_not_slow_it_for_ever() -> None:
    limit = a_limit(1000)
    limit.read(CALM._replace(active=100, running=100.0, preempted=1))
    for _ in range(300):
        limit.read(CALM._replace(active=limit.slots, running=float(limit.slots)))
    assert limit.slots > 500


def test_a_line_inside_the_engine_takes_slots_away_if_it_lasts() -> None:
    limit = a_limit()
    lined_up = CALM._replace(running=60.0, waiting=40.0)
    readings = [limit.read(lined_up) for _ in range(5)]
    assert readings[0] == 100
    assert readings[-1] < 100
    assert limit.why == "engine_line"


def test_it_grows_only_while_slots_are_short() -> None:
    limit = a_limit()
    limit.read(CALM._replace(gaps_s=20.0))
    low = limit.slots
    for _ in range(30):
        limit.read(CALM._replace(active=10, wanted=False))
    assert limit.slots == low
    for _ in range(30):
        limit.read(CALM._replace(active=limit.slots))
    assert limit.slots > low
    assert limit.why == "room"


def late_whoever_asks(slots: int) -> Reading:
    """First tokens take nearly all of their time with however many slots: a slow network, a busy front."""
    return firsts(mean_s=0.97, deviation_s=0.0, number=100)._replace(active=slots, running=slots)


def test_slots_that_were_taken_away_in_vain_come_back() -> None:
    limit = a_limit()
    slots = [limit.read(late_whoever_asks(limit.slots)) for _ in range(600)]
    assert min(slots) > 100 * VAIN_SLOTS * (1 - DOWN_MOST) ** (VAIN_AFTER_S / SETTLE_S + 1), "as far as it takes to see"
    assert slots.count(100) > len(slots) / 2


def test_slots_given_back_are_taken_away_again_by_another_load() -> None:
    limit = a_limit()
    for _ in range(100):
        if limit.why != "in_vain":
            limit.read(late_whoever_asks(limit.slots))
    assert (limit.slots, limit.why) == (100, "in_vain")
    for _ in range(10):
        limit.read(CALM._replace(firsts_s=30.0))
    assert limit.slots < 100
    assert limit.why == "ttft"


def test_a_load_long_after_the_loss_helped_does_not_bring_them_back() -> None:
    limit = a_limit()
    for _ in range(16):
        limit.read(firsts(mean_s=1.2, deviation_s=0.0, number=100)._replace(active=limit.slots))
    few = limit.slots
    assert few < 100 * VAIN_SLOTS
    for _ in range(60):
        limit.read(CALM._replace(active=20, wanted=False))
    limit.read(firsts(mean_s=3.0, deviation_s=0.0, number=1000)._replace(active=few))
    assert limit.slots < few
    assert limit.why == "ttft"


def test_slots_whose_loss_helped_stay_away() -> None:
    """The first token takes 20 ms for each slot: too much with more than about forty."""
    limit = a_limit()
    for _ in range(300):
        limit.read(firsts(mean_s=0.02 * limit.slots, deviation_s=0.0, number=100)._replace(active=limit.slots))
        assert limit.why != "in_vain"
    assert 20 < limit.slots < 50


def late_now_and_then(slots: int, *, served: float, in_time: float, mean_s: float = 0.6) -> Reading:
    """So many a second begin, and that share of them in time; at 0.6 s in the mean slow ones are nearly late."""
    some = firsts(mean_s=mean_s, deviation_s=0.2, number=round(served))
    return some._replace(active=slots, running=slots, begun=served, in_time=served * in_time)


def test_slots_are_kept_where_fewer_would_only_serve_fewer() -> None:
    """Seen on a busy front: 72 slots served 76 a second, 90 % in time, and 192 served 117, 83 % in time."""
    limit = a_limit(200)
    slots = [
        limit.read(late_now_and_then(limit.slots, served=11.5 * limit.slots**0.44, in_time=1 - limit.slots / 1100))
        for _ in range(400)
    ]
    assert min(slots) > 200 * (1 - DOWN_MOST) ** 2, "it goes down to see, a step or two"
    assert sum(slots) / len(slots) > 180


def test_slots_are_taken_away_where_fewer_give_more() -> None:
    """As many are served with 130 as with 200, and all in time instead of half."""
    limit = a_limit(200)
    for _ in range(100):
        over = max(limit.slots - 130, 0) / 70
        limit.read(late_now_and_then(limit.slots, served=100, in_time=1 - over / 2, mean_s=0.45 + 0.3 * over))
    assert 110 < limit.slots < 160


def test_where_most_are_late_nobody_waits_to_see_what_slots_give() -> None:
    blind, seeing = a_limit(200), a_limit(200)
    for _ in range(20):
        late = late_now_and_then(seeing.slots, served=100, in_time=0.3, mean_s=0.005 * seeing.slots)
        assert blind.read(late._replace(begun=0, in_time=0)) == seeing.read(late)


@given(
    st.lists(
        st.builds(
            Reading,
            seconds=st.sampled_from([0.5, 1.0, 5.0]),
            active=st.integers(0, 300),
            wanted=st.booleans(),
            gaps_s=st.floats(0, 1000),
            gaps=st.integers(0, 1000),
            firsts_s=st.floats(0, 1000),
            firsts=st.integers(0, 100),
            begun=st.just(100),
            in_time=st.integers(0, 100),
            holds_s=st.floats(0, 1000),
            holds_s2=st.floats(0, 100_000),
            holds=st.integers(0, 100),
            preempted=st.sampled_from([0, 0, 0, 5]),
            running=st.one_of(st.none(), st.floats(0, 300)),
            waiting=st.one_of(st.none(), st.floats(0, 300)),
            kv_usage=st.one_of(st.none(), st.floats(0, 1)),
        ),
        max_size=60,
    )
)
def test_whatever_it_reads_it_stays_in_bounds_and_its_steps_up_are_small(readings: list[Reading]) -> None:
    limit = Limit(256, itl_s=0.1, ttft_s=1.0, latency_s=4.0)
    for reading in readings:
        before = limit.slots
        after = limit.read(reading)
        assert 1 <= after <= 256
        if limit.why != "in_vain":
            assert after <= before + max(1, UP_MOST * before) + 1
        if limit.why in ("itl", "ttft", "latency", "engine_line") and after < before:
            at_work = min(before, max(reading.active, 1))
            assert after >= int(at_work * (1 - DOWN_MOST)) - 1


def test_an_estimate_learns_what_a_caller_really_uses() -> None:
    estimate = Estimate()
    first = estimate.tokens("k", 400, 4000)
    for _ in range(60):
        estimate.learn("k", 400, prompt_tokens=100, completion_tokens=20)
        estimate.tokens("k", 400, 4000)
    learnt = estimate.tokens("k", 400, 4000)
    assert learnt < first
    assert abs(learnt - 120) < 5
    assert estimate.tokens("k", 400, 4) < learnt, "a limit below the habit counts"
    assert estimate.tokens("k", 400, 4000, sequences=3) > learnt, "every sequence counts"
    assert estimate.tokens("other", 400, 4000) == first, "each key for itself"


def test_answers_that_were_cut_say_nothing_of_those_that_will_not_be() -> None:
    estimate = Estimate()
    for _ in range(60):
        assert estimate.answer("k", None) >= 128.0
        estimate.learn("k", 400, prompt_tokens=100, completion_tokens=16, most=16)
        estimate.learn("k", 400, prompt_tokens=100, completion_tokens=400)
    assert estimate.answer("k", None) == pytest.approx(400.0, rel=0.01)
    assert estimate.answer("k", 16) == 16.0
    for _ in range(60):
        estimate.learn("k", 400, prompt_tokens=100, completion_tokens=600, most=600)
    assert estimate.answer("k", None) == pytest.approx(600.0, rel=0.01), "they are as long, at least"
    for _ in range(60):
        estimate.learn("k", 400, prompt_tokens=100, completion_tokens=30, most=600)
    assert estimate.answer("k", None) == pytest.approx(30.0, rel=0.05), "and one that ended by itself says all"


def test_a_load_that_has_just_gone_does_not_take_all_slots_with_it() -> None:
    """Tokens were slow while a hundred ran; that twenty run at the look says nothing of twenty."""
    limit = Limit(100, itl_s=0.1, ttft_s=1.0)
    limit.read(Reading(1.0, active=100, wanted=True, gaps_s=9.0, gaps=100))
    limit.read(Reading(1.0, active=15, wanted=True, gaps_s=12.0, gaps=100))
    assert limit.why == "itl"
    assert limit.slots > 30
