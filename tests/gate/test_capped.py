"""Keys with a cap: they wait for themselves, and nobody waits for them."""

from __future__ import annotations

import pytest

from headgate.gate import Ledger
from headgate.gate.capped import Capped
from headgate.gate.entries import Claim, Ticket
from headgate.gate.ordering import Fifo
from headgate.gate.orders import ORDERS, Name, make_order
from headgate.gate.outcomes import Granted, Refused, Waiting
from headgate.gate.sentences import sentence

A = Claim(key="a", most=2)
B = Claim(key="b")


def ledger(slots: int = 8, **rules: object) -> Ledger:
    books = Ledger(order=make_order("fair", capped=True), **rules)  # type: ignore[arg-type]
    books.resize(0.0, "e0", slots)
    return books


def granted(books: Ledger, claim: Claim, weight: int = 1, now: float = 0.0) -> Ticket:
    decision = books.offer(now, weight, claim=claim)
    assert isinstance(decision, Granted), decision
    return decision.ticket


def waiting(books: Ledger, claim: Claim, weight: int = 1, now: float = 0.0) -> Ticket:
    decision = books.offer(now, weight, claim=claim)
    assert isinstance(decision, Waiting), decision
    return decision.ticket


@pytest.mark.parametrize("name", list(ORDERS))
def test_a_key_at_its_cap_waits_for_its_own_and_others_pass(name: Name) -> None:
    books = Ledger(order=make_order(name, capped=True))
    books.resize(0.0, "e0", 8)
    first, second = granted(books, A), granted(books, A)
    third, fourth = waiting(books, A), waiting(books, A)
    assert books.statistics(0.0).aside == 2
    assert (books.waiting, books.wanting) == (2, 0)
    assert books.fits(1), "the others' way is free"
    for _ in range(4):
        granted(books, B)
    assert [each.ticket for each in books.leave(1.0, first)] == [third]
    assert [each.ticket for each in books.leave(1.0, second)] == [fourth]
    assert books.statistics(1.0).aside == 0


def test_the_cap_is_of_slots_and_a_heavier_request_has_its_turn_alone() -> None:
    books = ledger()
    pair = granted(books, A, weight=2)
    heavy, light = waiting(books, A, weight=5), waiting(books, A)
    assert [each.ticket for each in books.leave(1.0, pair)] == [heavy]
    assert books.active == 5
    assert [each.ticket for each in books.leave(2.0, heavy)] == [light]


def test_a_light_request_does_not_pass_a_heavy_one_of_its_key() -> None:
    books = ledger()
    wide = A._replace(most=4)
    first = granted(books, wide, weight=3)
    heavy, light = waiting(books, wide, weight=2), waiting(books, wide)
    assert [each.ticket for each in books.leave(1.0, first)] == [heavy, light]


def test_a_heavy_request_that_leaves_was_in_nobodys_way() -> None:
    """The light one behind it stood aside until another of its key ended, with a slot of the key's own free."""
    books = ledger()
    wide = A._replace(most=4)
    granted(books, wide, weight=3)
    heavy, light = waiting(books, wide, weight=2), waiting(books, wide)
    assert [each.ticket for each in books.leave(1.0, heavy)] == [light]


def test_one_that_leaves_the_line_lets_its_own_move_up() -> None:
    books = ledger(slots=1)
    holder = granted(books, B)
    one, two, three = waiting(books, A), waiting(books, A), waiting(books, A)
    assert books.stands_aside(three)
    books.leave(1.0, one)
    assert not books.stands_aside(three)
    assert [each.ticket for each in books.leave(2.0, holder)] == [two]


def test_one_from_a_dead_engine_goes_past_its_cap() -> None:
    """Its old slot goes back after its offer: it would wait for itself."""
    books = ledger()
    granted(books, A)
    old = granted(books, A)
    again = books.offer(1.0, claim=A, front=True)
    assert isinstance(again, Granted)
    books.leave(1.0, old)
    aside = waiting(books, A)
    assert [each.ticket for each in books.leave(2.0, again.ticket)] == [aside]


def test_a_full_line_is_not_full_of_one_capped_key() -> None:
    books = ledger(slots=2, queue_max=3)
    granted(books, A)
    granted(books, A)
    own = [waiting(books, A) for _ in range(3)]
    decision = books.offer(0.0, claim=B)
    assert isinstance(decision, Waiting)
    assert decision.displaced is not None
    assert decision.displaced.ticket is own[-1]
    refused = books.offer(0.0, claim=A)
    assert isinstance(refused, Refused), "it takes nobody's place but its own"


def test_who_is_refused_for_its_keys_cap_reads_so() -> None:
    books = ledger(queue_mode="reject")
    granted(books, A)
    granted(books, A)
    refused = books.offer(0.0, claim=A)
    assert isinstance(refused, Refused)
    assert sentence(refused, books).startswith("This key's requests take the 2 slots that it may hold at once.")
    granted(books, B)


def test_who_waited_for_its_own_key_in_vain_is_not_told_that_the_model_is_busy() -> None:
    books = ledger(queue_timeout_s=5.0)
    granted(books, A, weight=2)
    waiting(books, A)
    (refused,) = books.tick(6.0)
    assert isinstance(refused, Refused)
    what = "This key's requests take the 2 slots that it may hold at once, and none of them came free within 5 s."
    assert sentence(refused, books).startswith(what)


def test_who_stands_aside_makes_no_difference_to_what_others_are_told() -> None:
    """With one of them in the line those before a newcomer counted as one slot each, however heavy they were."""
    told = []
    for aside in (0, 1):
        books = ledger(slots=4, queue_timeout_s=1e6)
        now = 0.0
        for _ in range(100):
            one = granted(books, B, now=now)
            now += 10.0
            books.leave(now, one)
        granted(books, A, weight=2, now=now)
        granted(books, B, weight=2, now=now)
        for _ in range(aside):
            waiting(books, A, now=now)
        for _ in range(5):
            waiting(books, B, weight=4, now=now)
        told.append(waiting(books, B, now=now).predicted_s)
    assert told[0] is not None
    assert told[1] == pytest.approx(told[0], rel=0.2)


def told_s(books: Ledger, claim: Claim, now: float) -> float:
    decision = books.offer(now, claim=claim)
    assert isinstance(decision, Refused)
    return decision.retry_after_s


def test_who_is_refused_for_its_own_key_is_told_when_that_has_room_and_puts_off_nobody_else() -> None:
    """It was told when the gate has, which had, and what it booked others had to come after."""
    books = ledger(queue_max=0)
    now = 0.0
    for _ in range(100):
        one = granted(books, B, now=now)
        now += 10.0
        books.leave(now, one)
    granted(books, A, weight=2, now=now)
    told = [told_s(books, A, now) for _ in range(20)]
    assert told[0] == pytest.approx(5.0, rel=0.1), "half of what two slots are held for"
    assert told == sorted(told)
    assert told[-1] > 60.0
    for _ in range(6):
        granted(books, B, now=now)
    assert told_s(books, B, now) == pytest.approx(10.0 / 8, rel=0.1)


def test_nobody_can_tell_when_one_that_stands_aside_is_served() -> None:
    books = ledger()
    granted(books, A)
    granted(books, A)
    waiting(books, A)
    line, newcomer_s = books.outlook(0.0, 10)
    assert [each.eta_s for each in line] == [None]
    assert newcomer_s == 0.0


def test_a_drain_serves_those_who_stand_aside_too() -> None:
    books = ledger()
    first = granted(books, A)
    granted(books, A)
    third = waiting(books, A)
    assert books.close(1.0, 30.0) == []
    assert [each.ticket for each in books.leave(2.0, first)] == [third]


def test_keys_without_a_cap_are_not_counted() -> None:
    order = Capped(Fifo)
    for i in range(10):
        ticket = Ticket(i, 1, 0, 0.0, 0.0, claim=B)
        order.serve(ticket)
    assert not order._keys
    assert not order._counted


@pytest.mark.parametrize("name", ["priority", "fair"])
def test_those_who_stand_aside_are_served_in_turn_though_many_have_left(name: Name) -> None:
    """Of a crowd the newest goes first only while it has just come, which those who stand aside have not."""
    books = Ledger(order=make_order(name, capped=True), queue_max=1000)
    books.resize(0.0, "e0", 8)
    claim = Claim(key="a", most=1, within_s=0.5)
    holds = granted(books, claim)
    for left in [waiting(books, claim) for _ in range(100)]:
        books.leave(0.1, left)
    in_turn = [waiting(books, claim, now=0.2) for _ in range(5)]
    served = []
    for _ in in_turn:
        (verdict,) = books.leave(5.0, holds)
        assert isinstance(verdict, Granted)
        holds = verdict.ticket
        served.append(holds)
    assert served == in_turn
