"""Which engine is chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.pool.choose import Candidate, choose

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        name=st.just("e"),
        slots=st.integers(0, 12),
        active=st.integers(0, 14),
        last_turn=st.integers(0, 5),
    ),
    max_size=6,
).map(lambda found: [replace(candidate, name=f"e{at}") for at, candidate in enumerate(found)])
WEIGHT = st.integers(1, 20)


@settings(deadline=None)
@given(CANDIDATES, WEIGHT)
def test_the_chosen_engine_has_room_and_none_with_room_is_less_loaded(candidates: list[Candidate], weight: int) -> None:
    name = choose(candidates, weight)
    fitting = [candidate for candidate in candidates if candidate.has_room(weight)]
    if name is None:
        assert fitting == []
        return
    chosen = next(candidate for candidate in candidates if candidate.name == name)
    assert chosen in fitting
    load = Fraction(chosen.active, chosen.slots)
    assert all(load <= Fraction(other.active, other.slots) for other in fitting)
    equals = [other for other in fitting if Fraction(other.active, other.slots) == load]
    assert chosen.last_turn == min(other.last_turn for other in equals)


@settings(deadline=None)
@given(CANDIDATES, WEIGHT)
def test_no_engine_is_given_more_than_it_has_unless_it_is_empty(candidates: list[Candidate], weight: int) -> None:
    name = choose(candidates, weight)
    for candidate in candidates:
        if candidate.name == name:
            assert candidate.active + weight <= candidate.slots or candidate.active == 0


def test_an_engine_without_slots_is_never_chosen() -> None:
    assert choose([Candidate("e0", 0, 0)]) is None


def test_equals_take_turns() -> None:
    turns = dict.fromkeys(("e0", "e1", "e2"), 0)
    seen: list[str] = []
    for turn in range(1, 10):
        name = choose([Candidate(engine, 4, 1, last) for engine, last in turns.items()])
        assert name is not None
        turns[name] = turn
        seen.append(name)
    assert seen == ["e0", "e1", "e2"] * 3
    assert set(Counter(seen).values()) == {3}


def test_load_is_relative_to_slots() -> None:
    assert choose([Candidate("small", 4, 2), Candidate("large", 100, 40)]) == "large"
