"""How long slots are held, and first tokens take: what is learned of it."""

from __future__ import annotations

import heapq
import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.entries import Claim, Ticket
from headgate.gate.hold_times import LEAST_LENGTH, LEAST_S, MOST_LENGTH, HoldTimes


def measured(hold_s: float, times: int = 10) -> HoldTimes:
    holds = HoldTimes()
    for _ in range(times):
        holds.learn(hold_s, 1)
    return holds


def holder(since: float, weight: int = 1, answer: float = 1.0) -> Ticket:
    return Ticket(1, weight, 0, 0.0, 0.0, granted_at=since, claim=Claim(answer=answer))


# What is learned


def test_slots_come_free_at_slots_over_mean_hold() -> None:
    assert measured(8.0).slot_s(100.0, 4, ()) == 2.0


def test_the_mean_is_exact_while_little_was_measured() -> None:
    holds = HoldTimes()
    for hold_s in (1.0, 2.0, 6.0):
        holds.learn(hold_s, 1)
    assert holds.slot_s(0.0, 1, ()) == pytest.approx(3.0)


def test_a_completion_counts_for_each_slot_that_it_held() -> None:
    holds = HoldTimes()
    holds.learn(1.0, 1)
    holds.learn(5.0, 3)
    assert holds.slot_s(0.0, 1, ()) == pytest.approx(4.0)


def test_a_change_of_work_is_learned() -> None:
    holds = measured(1.0, times=1000)
    for _ in range(300):
        holds.learn(10.0, 1)
    assert holds.slot_s(0.0, 1, ()) == pytest.approx(10.0, rel=0.05)


def test_what_runs_for_longer_than_the_mean_counts_as_it_stands() -> None:
    holds = measured(2.0, times=10)
    holders = [holder(since=60.0), holder(since=99.0), holder(since=99.9)]
    assert holds.slot_s(100.0, 1, holders) == pytest.approx((10 * 2.0 + 40.0) / 11)


def test_where_times_differ_it_is_usual_that_some_run_for_longer() -> None:
    """As many as there are at any moment: the time told for a line was half again too long for them."""
    dice = random.Random(7)
    holds = HoldTimes()
    for _ in range(2000):
        holds.learn(dice.expovariate(1 / 4.0), 1)
    ages = sorted((dice.expovariate(1 / 4.0) for _ in range(88)), reverse=True)
    usual_s = holds.slot_s(100.0, 88, [])
    assert holds.slot_s(100.0, 88, [holder(since=100.0 - age) for age in ages]) == pytest.approx(usual_s, rel=0.1)
    hangs = [holder(since=60.0 - age) for age in ages]
    assert holds.slot_s(100.0, 88, hangs) > 4 * usual_s, "and where nothing ends it is not"


def test_work_that_never_completed_raises_the_first_guess() -> None:
    assert HoldTimes().slot_s(100.0, 4, [holder(since=20.0)] * 4) == 20.0


def waves(holds: HoldTimes, seconds: float, per_s: float) -> list[tuple[float, float]]:
    """First tokens that take 0.2 s for 2 s and then 0.6 s for 2 s: what was said before each came, and its time."""
    told: list[tuple[float, float]] = []
    lead_s = 0.0
    for number in range(int(seconds * per_s)):
        now = number / per_s
        first_s = 0.2 if now % 4 < 2 else 0.6
        told.append((lead_s, first_s))
        lead_s = holds.learn_first(now, first_s)
    return told


@pytest.mark.parametrize("per_s", [5.0, 100.0, 1000.0])
def test_a_slow_wave_is_remembered_while_quick_ones_come_however_many_they_are(per_s: float) -> None:
    """A memory of twenty forgot it in a fifth of a second, and the next wave was late as a whole (seen on vLLM)."""
    settled = waves(HoldTimes(), 20.0, per_s)[int(8 * per_s) :]
    assert all(lead_s >= first_s for lead_s, first_s in settled)


def test_first_tokens_that_seldom_come_are_remembered_by_their_number() -> None:
    holds = HoldTimes()
    for number in range(30):
        lead_s = holds.learn_first(60.0 * number, 0.6 if number == 15 else 0.2)
    assert lead_s > 0.3
    for number in range(30, 400):
        lead_s = holds.learn_first(60.0 * number, 0.2)
    assert lead_s == pytest.approx(0.2, abs=0.01), "and not for ever"


def test_of_a_single_first_token_twice_its_time_is_allowed() -> None:
    assert HoldTimes().learn_first(5.0, 0.3) == pytest.approx(0.6)


# What an expected answer says


def seconds_for(answer: float) -> float:
    return 0.5 + answer * 0.05


def told_apart(dice: random.Random | None = None) -> HoldTimes:
    """One that has seen chats of 20 tokens and a batch of 400, three to one, which hold for 1.5 s and 20.5."""
    holds = HoldTimes()
    for at in range(400):
        answer = 400.0 if at % 4 == 3 else 20.0
        holds.learn(dice.expovariate(1 / seconds_for(answer)) if dice else seconds_for(answer), 1, answer)
    return holds


@pytest.mark.parametrize("answer", [20.0, 200.0, 400.0])
def test_of_a_longer_answer_a_longer_time_is_expected(answer: float) -> None:
    holds = told_apart()
    assert holds.length(answer) * holds.mean_s == pytest.approx(seconds_for(answer), rel=0.01)
    assert holds.chance == pytest.approx(0.0, abs=0.05)


def test_an_answer_says_it_of_those_that_may_end_at_any_time_too() -> None:
    holds = told_apart(random.Random(4))
    assert 4 < holds.length(400.0) / holds.length(20.0) < 40
    assert holds.chance == 1.0


def test_a_time_is_never_expected_to_be_nothing_or_for_ever() -> None:
    holds = told_apart()
    assert holds.length(-1e9) == LEAST_LENGTH
    for _ in range(200):
        for answer in (20.0,) * 40 + (4000.0,):
            holds.learn(seconds_for(answer), 1, answer)
    assert holds.length(1e9) == MOST_LENGTH


def test_answers_that_were_nearly_alike_say_little_of_one_that_is_far_from_them() -> None:
    """A new key's line was refused for a wait of minutes that was one of 9 s: chance, drawn out a hundred times."""
    dice = random.Random(7)
    holds = HoldTimes()
    for _ in range(200):
        answer = dice.uniform(4.9, 5.1)
        holds.learn(dice.uniform(2.0, 4.0) + answer - 5.0, 1, answer)
    assert 1.0 < holds.length(128.0) < 2.0


def test_one_unlike_thousands_that_were_alike_is_no_surprise_of_thousands_of_seconds() -> None:
    """It was expected to take 10**11 s, and an end was a matter of chance for 1400 more."""
    dice = random.Random(0)
    holds, answer = HoldTimes(), 128.0
    for _ in range(4000):
        holds.learn(dice.uniform(2.0, 4.0), 1, answer)
        answer += (16.0 - answer) * 0.1
    holds.learn(3.0, 1, 128.0)
    assert holds.rest_s == pytest.approx(0.5, abs=0.1)


def test_where_all_are_expected_to_be_alike_nobody_is_told_apart() -> None:
    holds = measured(2.0, times=100)
    assert holds.length(1000.0) == 1.0


def test_where_a_longer_answer_ends_sooner_nobody_is_told_apart() -> None:
    holds = HoldTimes()
    for at in range(100):
        holds.learn(1.0 + at % 2, 1, answer=100.0 * (1 - at % 2))
    assert holds.length(1000.0) == 1.0


def test_a_few_that_ended_tell_nobody_apart() -> None:
    holds = HoldTimes()
    for answer in (10.0, 100.0) * 15:
        holds.learn(seconds_for(answer), 1, answer)
    assert holds.length(100.0) == 1.0


def test_of_a_long_one_nobody_is_surprised_that_it_still_runs() -> None:
    holds = told_apart()
    as_usual_s = holds.slot_s(100.0, 2, [])
    assert holds.slot_s(100.0, 2, [holder(since=81.0, answer=400.0)]) == as_usual_s
    assert holds.slot_s(100.0, 2, [holder(since=81.0, answer=20.0)]) > as_usual_s


@given(
    held=st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(1, 300), st.floats(0, 1e6)),
        min_size=1,
        max_size=100,
    ),
    answer=st.floats(0, 1e9),
    ages=st.lists(st.floats(0, 1e6), max_size=5),
    token_s=st.none() | st.floats(1e-6, 1e3),
)
def test_whatever_was_seen_a_time_is_told(
    held: list[tuple[float, int, float]], answer: float, ages: list[float], token_s: float | None
) -> None:
    holds = HoldTimes()
    if token_s is not None:
        holds.tempo(token_s)
    for each in held:
        holds.learn(*each)
    assert LEAST_LENGTH <= holds.length(answer) <= MOST_LENGTH
    assert 0.0 <= holds.chance <= 1.0
    holders = [holder(2e6 - age, answer=answer) for age in sorted(ages, reverse=True)]
    assert LEAST_S <= holds.slot_s(2e6, 3, holders) < inf


# The tempo of tokens


def test_where_tokens_come_slower_slots_are_held_longer_before_anybody_has_ended() -> None:
    holds = HoldTimes()
    holds.tempo(0.02)
    for _ in range(40):
        holds.learn(1.0, 1)
    assert holds.slot_s(0.0, 4, ()) == pytest.approx(0.25)
    holds.tempo(0.1)
    assert holds.slot_s(0.0, 4, ()) == pytest.approx(1.25)
    holds.tempo(0.016)
    assert holds.slot_s(0.0, 4, ()) == pytest.approx(0.2)


def test_as_those_end_the_measured_time_takes_over() -> None:
    holds = HoldTimes()
    holds.tempo(0.02)
    for _ in range(64):
        holds.learn(1.0, 1)
    holds.tempo(0.1)
    for _ in range(640):
        holds.learn(5.0, 1)
        assert 4.0 < 4 * holds.slot_s(0.0, 4, ()) < 9.0
    assert holds.slot_s(0.0, 4, ()) == pytest.approx(1.25, rel=0.01)


def test_one_strange_tempo_does_not_make_hours_of_seconds() -> None:
    holds = HoldTimes()
    holds.tempo(0.001)
    for _ in range(40):
        holds.learn(1.0, 1)
    holds.tempo(10.0)
    assert holds.slot_s(0.0, 1, ()) == 16.0


def test_before_anybody_has_ended_answers_are_as_long_as_expected() -> None:
    holds = HoldTimes()
    holds.learn_first(1.0, 0.5)
    holds.tempo(0.1)
    holders = [holder(0.0), holder(0.0)]
    for ticket, answer in zip(holders, (20.0, 60.0), strict=True):
        ticket.claim = ticket.claim._replace(answer=answer)
    assert holds.slot_s(0.0, 2, holders) == pytest.approx((0.5 + 4.0) / 2)
    assert holds.slot_s(0.0, 2, ()) == 1.0, "and where nobody runs nothing is known"


def test_a_probe_for_one_token_says_little_of_those_that_run() -> None:
    holds = HoldTimes()
    holds.learn(0.04, 1)
    holds.tempo(0.1)
    running = holder(0.0)
    running.claim = running.claim._replace(answer=40.0)
    assert holds.slot_s(0.0, 1, [running]) == pytest.approx(4.0, rel=0.05)
    for _ in range(31):
        holds.learn(3.0, 1)
    assert holds.slot_s(0.0, 1, [running]) == pytest.approx(3.0, rel=0.05), "those that have ended are gone by"


def test_the_time_told_for_a_line_is_the_time_that_it_takes() -> None:
    """Eight slots, random work, a line that is always full: predicted against what then happens."""
    dice = random.Random(7)
    slots, line = 8, 32
    holds = HoldTimes()
    ends = [dice.expovariate(1 / 4.0) for _ in range(slots)]
    heapq.heapify(ends)
    starts = dict.fromkeys(ends, 0.0)
    freed: list[float] = []
    told: list[float] = []
    for _ in range(5000):
        now = heapq.heappop(ends)
        holds.learn(now - starts.pop(now), 1)
        end = now + dice.expovariate(1 / 4.0)
        starts[end] = now
        heapq.heappush(ends, end)
        freed.append(now)
        told.append(holds.slot_s(now, slots, [holder(since) for since in starts.values()]) * line)
    took = [freed[at + line] - freed[at] for at in range(200, len(freed) - line)]
    errors = [abs(told[at + 200] / took[at] - 1) for at in range(len(took))]
    assert sum(told[200:-line]) / sum(took) == pytest.approx(1.0, abs=0.05)
    assert sorted(errors)[len(errors) // 2] < 0.3
