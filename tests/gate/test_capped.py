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


@pytest.mark.parametrize("name", ["priority", "fair"])
def test_how_long_one_stood_aside_makes_it_no_older(name: Name) -> None:
    """It went before a more urgent one that had waited for slots for longer, and before it all others were late."""
    books = Ledger(order=make_order(name, capped=True))
    books.resize(0.0, "e0", 2)
    low = Claim(key="a", most=1, rank=1)
    own, other = granted(books, low), granted(books, B)
    aside = waiting(books, low)
    urgent = waiting(books, B, now=20.0)
    books.resize(21.0, "e0", 1)
    assert books.leave(21.0, own) == []
    assert [each.ticket for each in books.leave(22.0, other)] == [urgent]
    assert [each.ticket for each in books.leave(23.0, urgent)] == [aside]
    assert aside.aside_s == 21.0


def test_nobody_is_late_for_having_stood_aside() -> None:
    """A key at its cap made its whole priority a crowd, whose newest goes first, and the engine slow with all of it."""
    books = ledger(slots=2, queue_max=1000, queue_timeout_s=1000.0)
    soon = Claim(key="a", most=1, within_s=0.5)
    holds, _ = granted(books, soon), granted(books, B)
    for _ in range(100):
        waiting(books, soon)
    for second in range(1, 60):
        (verdict,) = books.leave(float(second), holds)
        assert isinstance(verdict, Granted)
        assert books.statistics(float(second)).late == 0
        holds = verdict.ticket
        books.first_token(second + 0.1, holds)
    ended = books.ended_on("e0")
    assert ended.in_time == ended.firsts == 59
    books.resize(60.0, "e0", 1)
    books.leave(60.0, holds)
    waiting(books, Claim(key="b", within_s=0.5), now=60.0)
    line, _ = books.outlook(60.0, 2)
    assert [each.eta_s is None for each in line] == [False, False], "a crowd is told none"


def test_how_long_one_stood_aside_is_kept_when_it_is_put_back() -> None:
    books = ledger(slots=2, queue_max=1000)
    urgent = Claim(key="a", most=1, within_s=0.5)
    holds, other = granted(books, urgent), granted(books, B)
    aside = waiting(books, urgent)
    books.leave(10.0, holds)
    assert (aside.aside_s, aside.held_in is not None) == (10.0, True)
    books.resize(10.0, "e0", 1)
    books.leave(10.25, aside)
    again = books.offer(10.25, claim=urgent, kept=True, waited_s=10.0, aside_s=aside.aside_s)
    assert isinstance(again, Waiting)
    assert books.statistics(10.25).late == 0
    assert [each.ticket for each in books.leave(10.5, other)] == [again.ticket]


def test_long_answers_of_those_who_stand_aside_are_no_reason_to_refuse_others() -> None:
    """It was the mean length of all who wait, and the newcomer waits for none of them."""
    books = ledger(slots=2, queue_max=1000)
    chat, batch = Claim(key="b", answer=10.0), Claim(key="a", most=1, answer=1000.0)
    now = 0.0
    for i in range(64):
        claim, held_s = (batch, 100.0) if i % 8 == 0 else (chat, 1.0)
        one = granted(books, claim, now=now)
        now += held_s
        books.leave(now, one)
    granted(books, batch, now=now)
    granted(books, chat, now=now)
    for _ in range(100):
        waiting(books, batch, now=now)
    for _ in range(2):
        waiting(books, chat, now=now)
    waiting(books, chat, now=now)


def test_who_leaves_from_aside_says_nothing_of_the_patience_of_those_who_wait_for_slots() -> None:
    told = []
    for left in (0, 200):
        books = ledger(slots=2, queue_timeout_s=1e6)
        now = 0.0
        for _ in range(40):
            one = granted(books, B, now=now)
            now += 10.0
            books.leave(now, one)
        granted(books, A._replace(most=1), now=now)
        for _ in range(left):
            books.leave(now, waiting(books, A._replace(most=1), now=now))
        granted(books, B, now=now)
        for _ in range(8):
            waiting(books, B, now=now)
        told.append(waiting(books, B, now=now).predicted_s)
    assert told[0] == told[1]


def test_a_key_that_may_hold_more_is_not_told_that_it_holds_what_it_may() -> None:
    """A heavy request of another's waits for the free slots, so they are not for it either."""
    books = Ledger(order=make_order("fifo", capped=True), queue_max=1)
    books.resize(0.0, "e0", 4)
    granted(books, B, weight=2)
    waiting(books, B, weight=4)
    refused = books.offer(0.0, claim=A)
    assert isinstance(refused, Refused)
    assert sentence(refused, books).startswith("The model is busy")


def test_a_return_is_told_by_what_those_before_it_weigh() -> None:
    told = []
    for weight in (1, 4):
        books = ledger(queue_timeout_s=5.0)
        wide = A._replace(most=4)
        granted(books, wide, weight=4)
        for _ in range(3):
            waiting(books, wide, weight=weight)
        (refused, *_) = books.tick(5.0)
        assert isinstance(refused, Refused)
        told.append(refused.retry_after_s)
    assert told[1] > 2 * told[0], "they were counted, however heavy they are"


@pytest.mark.parametrize("first", [A._replace(most=4, rank=-1), A._replace(most=4, booked=True)])
def test_who_goes_first_of_its_key_and_has_room_does_not_stand_aside_behind_a_heavy_one(first: Claim) -> None:
    """It waited until another of its key ended, with slots free and its key below its cap."""
    books = ledger()
    wide = A._replace(most=4)
    granted(books, wide)
    waiting(books, wide, weight=4)
    assert not granted(books, first).for_own
    waiting(books, wide)
