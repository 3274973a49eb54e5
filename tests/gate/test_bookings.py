"""Who comes back as it was told is known, once for each time that it was told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headgate.gate import bookings
from headgate.gate.bookings import EARLY_S, LATE_S, Bookings


def test_a_return_at_its_time_is_known_once() -> None:
    book = Bookings()
    book.book(10.0, 7, 2.0)
    assert book.redeem(12.0, 7)
    assert not book.redeem(12.0, 7)
    assert not book


def test_who_comes_too_soon_is_new_and_is_expected_still() -> None:
    book = Bookings()
    book.book(10.0, 7, 2.0)
    assert not book.redeem(11.9, 7)
    assert not book.redeem(11.9, 8)
    assert book.redeem(12.0 - EARLY_S, 7), "a client's timer may be a little quick"


def test_who_comes_very_late_is_new() -> None:
    book = Bookings()
    book.book(10.0, 7, 2.0)
    assert not book.redeem(12.1 + LATE_S, 7)
    assert not book


def test_of_the_same_request_each_is_expected_when_it_was_told() -> None:
    book = Bookings()
    book.book(10.0, 7, 8.0)
    book.book(10.0, 7, 2.0)
    assert book.redeem(13.0, 7)
    assert not book.redeem(13.0, 7)
    assert book.redeem(18.0, 7)


def test_the_first_told_are_forgotten_where_there_are_too_many(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(bookings, "MOST", 3)
    book = Bookings()
    for mark in range(5):
        book.book(10.0, mark, 2.0)
    assert [book.redeem(12.0, mark) for mark in range(5)] == [False, False, True, True, True]


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.floats(0.0, 20.0), st.floats(0.001, 60.0)),
        max_size=200,
    )
)
def test_as_many_are_known_as_were_told_and_are_due(steps: list[tuple[bool, int, float, float]]) -> None:
    book, told, now = Bookings(), dict[int, list[float]](), 0.0
    for is_refused, mark, later_s, told_s in steps:
        now += later_s
        due = told.setdefault(mark, [])
        if is_refused:
            book.book(now, mark, told_s)
            due.append(now + told_s)
            continue
        fit = sorted(each for each in due if now - LATE_S <= each <= now + EARLY_S)
        assert book.redeem(now, mark) == bool(fit)
        if fit:
            due.remove(fit[0])
    assert len(book) <= sum(map(len, told.values()))
