from __future__ import annotations

import random
from itertools import islice, pairwise
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workbench.bench.arrivals import BadShape, Shape, even, poisson, shape, times

RATES = st.one_of(st.just(0.0), st.floats(0.01, 200))
LENGTHS = st.floats(0.5, 60)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kind = draw(st.sampled_from(["constant", "ramp", "step", "spike"]))
    count = {"constant": 1, "ramp": 2, "spike": 2}.get(kind) or draw(st.integers(1, 6))
    rates = draw(st.lists(RATES, min_size=count, max_size=count).filter(any))
    text = ",".join(f"{rate:.4f}" for rate in rates)
    return shape(text if kind == "constant" else f"{kind}:{text}", draw(LENGTHS))


def area(of: Shape, until_s: float) -> float:
    """Arrivals expected up to a time."""
    found = 0.0
    for piece in of.pieces:
        part = min(max(until_s, 0.0), piece.length_s)
        slope = (piece.to_rate - piece.from_rate) / piece.length_s
        found += piece.from_rate * part + slope * part * part / 2
        until_s -= piece.length_s
    return found


@settings(deadline=None)
@given(shapes(), st.integers(0, 2**32))
def test_arrivals_are_in_order_and_within_the_load(of: Shape, seed: int) -> None:
    for distances in (even(), poisson(random.Random(seed))):
        due = list(islice(times(of, distances), 400))
        assert all(before <= after for before, after in pairwise(due))
        assert all(0 <= at <= of.length_s + 1e-9 for at in due)


@settings(deadline=None)
@given(shapes())
def test_an_even_load_has_as_many_arrivals_as_are_expected_and_each_at_its_mark(of: Shape) -> None:
    due = list(islice(times(of, even()), 400))
    assert abs(len(due) - min(400, of.expected)) <= 1
    for number, at in enumerate(due):
        assert area(of, at) == pytest.approx(number, abs=1e-6 * max(1.0, of.expected))


@settings(deadline=None)
@given(shapes(), st.integers(0, 2**32))
def test_a_seed_gives_the_same_arrivals_again(of: Shape, seed: int) -> None:
    first, second = (list(islice(times(of, poisson(random.Random(seed))), 500)) for _ in range(2))
    assert first == second


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    due = list(times(shape("50", 400), poisson(random.Random(7))))
    counts = [0] * 400
    for at in due:
        counts[floor(at)] += 1
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
    assert mean == pytest.approx(50, rel=0.03)
    assert variance == pytest.approx(50, rel=0.2), "evenly spread arrivals would have next to none"


def test_shapes_are_what_their_names_say() -> None:
    assert [shape("ramp:1-20", 10).rate_at(at) for at in (0, 5, 10)] == [1, 10.5, 0]
    assert [shape("step:5,10,20", 9).rate_at(at) for at in (0, 2.9, 3, 8.9)] == [5, 5, 10, 20]
    assert [shape("spike:5,50", 10).rate_at(at) for at in (0, 3.9, 4, 5.9, 6, 9.9)] == [5, 5, 50, 50, 5, 5]
    assert shape("ramp:0-10", 10).mean_rate == 5
    assert list(times(shape("10", 0.5), even())) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "0",
        "1,2",
        "ramp:1",
        "ramp:1-2-3",
        "spike:1",
        "step:",
        "wave:1,2",
        "nan",
        "inf",
        "1e9",
        "ramp:-1-5",
    ],
)
def test_what_is_no_shape_is_refused_with_what_is_taken(text: str) -> None:
    with pytest.raises(BadShape, match="ramp:1-20"):
        shape(text, 10)
