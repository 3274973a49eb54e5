"""What each order promises, by itself: whose turn it is, and what that is held against."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from headgate.gate.entries import Claim, Ticket
from headgate.gate.fair import Fair
from headgate.gate.ordering import Fifo, Order
from headgate.gate.orders import Name, make_order
from headgate.gate.priority import Priority
from headgate.gate.timely import Timely
from tests.gate.drive import ORDERS
from tests.gate.says import a_ledger, granted, waiting

numbers = count(1)


def a_ticket(came: float = 0.0, *, weight: int = 1, **claim: object) -> Ticket:
    asked = Claim(**claim)  # type: ignore[arg-type]  # a short way to write claims
    return Ticket(next(numbers), weight, 0, came, 0.0, claim=asked, tokens=asked.tokens)


def served(order: Order, now: float = 0.0) -> list[Ticket]:
    """All that wait, in the order in which they are served now."""
    out: list[Ticket] = []
    while (head := order.head(now)) is not None:
        order.take(head)
        out.append(head)
    return out


class OrderMachine(RuleBasedStateMachine):
    """Whatever comes, leaves and is served: an order loses nobody, and tells the truth about itself."""

    make: Callable[[], Order]

    def __init__(self) -> None:
        super().__init__()
        self.order = type(self).make()
        self.inside: list[Ticket] = []
        self.gone: list[Ticket] = []
        self.fronts: set[Ticket] = set()
        self.now = 0.0

    @rule(
        key=st.sampled_from("abc"),
        user=st.sampled_from("uv"),
        rank=st.integers(-1, 1),
        tokens=st.sampled_from([1.0, 10.0, 1000.0]),
        within_s=st.sampled_from([0.5, 2.0, inf]),
        front=st.sampled_from([False, False, False, True]),
        booked=st.booleans(),
    )
    def push(self, key: str, user: str, rank: int, tokens: float, within_s: float, front: bool, booked: bool) -> None:
        ticket = a_ticket(self.now, key=key, user=user, rank=rank, tokens=tokens, within_s=within_s, booked=booked)
        before = [each for each in self.inside if each is not ticket]
        head = self.order.head(self.now)
        self.order.push(ticket, front=front)
        assert self.order.head(self.now) in (head, ticket), "a push changed the order of the others"
        assert 0 <= self.order.before(ticket) <= len(before)
        self.inside.append(ticket)
        if front:
            self.fronts.add(ticket)

    @precondition(lambda self: self.inside)
    @rule()
    def serve(self) -> None:
        head = self.order.head(self.now)
        assert head in self.inside
        self.order.take(head)
        self.inside.remove(head)
        self.gone.append(head)

    @precondition(lambda self: self.inside)
    @rule(nth=st.integers(0, 100))
    def leave(self, nth: int) -> None:
        ticket = self.inside.pop(nth % len(self.inside))
        self.order.remove(ticket)
        with pytest.raises(KeyError):
            self.order.remove(ticket)

    @precondition(lambda self: self.gone)
    @rule(nth=st.integers(0, 100), tokens=st.sampled_from([0.0, 5.0, 5000.0]))
    def settle(self, nth: int, tokens: float) -> None:
        self.order.settle(self.gone[nth % len(self.gone)], tokens)

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def tells_the_truth(self) -> None:
        head = self.order.head(self.now)
        assert len(self.order) == len(self.inside)
        assert sorted(each.number for each in self.order) == sorted(each.number for each in self.inside)
        assert (head is None) == (not self.inside)
        last = self.order.last()
        assert last is None or last in self.inside
        if last is not None and last.claim.booked:
            own = [each for each in self.inside if each.claim[:2] == last.claim[:2] and each not in self.fronts]
            new = [each for each in own if each.claim.rank == last.claim.rank and not each.claim.booked]
            assert not new, "who comes back gives way before who is new"


@pytest.mark.parametrize("name", list(ORDERS))
def test_an_order_loses_nobody_and_tells_the_truth(name: str) -> None:
    machine = type(f"{name.title()}Machine", (OrderMachine,), {"make": staticmethod(ORDERS[name])})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None))


@pytest.mark.parametrize("make", [Fair, lambda: Priority(Fair), lambda: Timely(Fair)])
def test_one_caller_is_served_first_come_first_served(make: Callable[[], Order]) -> None:
    order = make()
    tickets = [a_ticket(float(i), key="a", tokens=float(1 + i % 7)) for i in range(50)]
    for ticket in tickets:
        order.push(ticket)
    assert list(order) == tickets
    assert served(order, 100.0) == tickets


# Fair.


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 500))
def test_between_two_who_always_wait_shares_differ_by_two_requests_at_most(costs: list[int], most: int) -> None:
    """The bound of start-time fair queueing: the largest request of each."""
    order = Fair()
    for who, cost in (("a", None), ("b", float(most))):
        for i in range(400):
            order.push(a_ticket(key=who, tokens=cost if cost is not None else float(costs[i % len(costs)])))
    got: Counter[str] = Counter()
    for _ in range(300):
        head = order.head(0.0)
        assert head is not None
        order.take(head)
        got[head.claim.key] += int(head.tokens)
        assert abs(got["a"] - got["b"]) <= max(costs) + most


def test_who_sends_ten_times_as_much_gets_no_more_than_the_others() -> None:
    order = Fair()
    for i in range(1000):
        order.push(a_ticket(key="greedy" if i % 11 else "modest", tokens=10.0))
    firsts = Counter(ticket.claim.key for ticket in served(order)[:180])
    assert firsts == {"greedy": 90, "modest": 90}


def test_shares_follow_the_weights() -> None:
    order = Fair()
    for _ in range(300):
        order.push(a_ticket(key="one", share=1.0, tokens=10.0))
        order.push(a_ticket(key="three", share=3.0, tokens=10.0))
    firsts = Counter(ticket.claim.key for ticket in served(order)[:200])
    assert firsts["three"] == pytest.approx(150, abs=2)


def test_users_share_what_their_key_gets() -> None:
    order = Fair()
    for _ in range(200):
        order.push(a_ticket(key="team", user="loud", tokens=10.0))
        order.push(a_ticket(key="team", user="loud", tokens=10.0))
        order.push(a_ticket(key="team", user="quiet", tokens=10.0))
        order.push(a_ticket(key="solo", tokens=10.0))
    firsts = Counter((ticket.claim.key, ticket.claim.user) for ticket in served(order)[:200])
    assert firsts["solo", ""] == pytest.approx(100, abs=2)
    assert firsts["team", "loud"] == pytest.approx(50, abs=2)
    assert firsts["team", "quiet"] == pytest.approx(50, abs=2)


def test_nobody_saves_up_while_away() -> None:
    order = Fair()
    for _ in range(100):
        order.serve(a_ticket(key="busy", tokens=100.0))
    for _ in range(20):
        order.push(a_ticket(key="busy", tokens=100.0))
        order.push(a_ticket(key="back", tokens=100.0))
    firsts = Counter(ticket.claim.key for ticket in served(order)[:20])
    assert firsts["back"] == pytest.approx(10, abs=1)


def test_what_a_request_really_took_is_what_counts() -> None:
    order = Fair()
    first = a_ticket(key="liar", tokens=1.0)
    for ticket in (first, *(a_ticket(key="liar", tokens=1.0) for _ in range(50))):
        order.push(ticket)
    for _ in range(50):
        order.push(a_ticket(key="honest", tokens=10.0))
    order.take(first)
    order.settle(first, 201.0)
    after = [ticket.claim.key for ticket in served(order)]
    assert after[:20] == ["honest"] * 20


def test_in_a_full_line_the_place_is_taken_from_whoever_has_most_in_it() -> None:
    order = Fair()
    greedy = [a_ticket(key="greedy", tokens=10.0) for _ in range(5)]
    for ticket in (*greedy, a_ticket(key="modest", tokens=10.0)):
        order.push(ticket)
    assert order.last() is greedy[-1]


def test_members_whose_past_makes_no_difference_are_forgotten() -> None:
    order = Fair()
    for i in range(20_000):
        order.serve(a_ticket(key="k", user=f"u{i}", tokens=1.0))
    members = order._keys.member("k").users.members
    assert len(members) < 5000


# Priority.


@pytest.mark.parametrize("beneath", [Fifo, Fair])
def test_a_low_request_gives_way_for_its_age_and_no_longer(beneath: Callable[[], Order]) -> None:
    order = Priority(beneath, age_s=10.0)
    low = a_ticket(0.0, rank=1)
    soon, late = a_ticket(9.0, key="b"), a_ticket(11.0, key="b")
    for ticket in (low, soon, late):
        order.push(ticket)
    assert served(order, 11.0) == [soon, low, late]


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 30)), max_size=40))
def test_nobody_is_overtaken_by_one_who_came_later_than_its_rank_allows(coming: list[tuple[int, int]]) -> None:
    order = Priority(Fifo, age_s=5.0)
    tickets = [a_ticket(float(at), rank=rank) for rank, at in sorted(coming, key=lambda each: each[1])]
    for ticket in tickets:
        order.push(ticket)
    turns = {ticket: turn for turn, ticket in enumerate(served(order))}
    for one in tickets:
        for other in tickets:
            if one.queued_from + one.claim.rank * 5.0 < other.queued_from + other.claim.rank * 5.0:
                assert turns[one] < turns[other]


def test_without_ageing_it_is_strict() -> None:
    order = Priority(Fifo, age_s=inf)
    low, normal, high = a_ticket(0.0, rank=1), a_ticket(50.0), a_ticket(1000.0, rank=-1)
    for ticket in (low, normal, high):
        order.push(ticket)
    assert served(order) == [high, normal, low]


def test_in_a_full_line_the_lowest_rank_gives_way() -> None:
    order = Priority(Fair)
    low = a_ticket(0.0, rank=1)
    for ticket in (a_ticket(), low, a_ticket(rank=-1)):
        order.push(ticket)
    assert order.last() is low


# Timely.


def test_who_is_too_late_waits_behind_those_who_are_not() -> None:
    order = Timely(Fifo)
    late, in_time = a_ticket(0.0, within_s=1.0), a_ticket(2.0, within_s=1.0)
    for ticket in (late, in_time):
        order.push(ticket)
    assert order.head(0.9) is late
    assert served(order, 2.5) == [in_time, late], "and is served all the same"


def test_time_for_the_first_token_is_kept_back() -> None:
    order = Timely(Fifo)
    order.lead_s = 0.3
    ticket, other = a_ticket(0.0, within_s=1.0), a_ticket(0.0)
    for each in (ticket, other):
        order.push(each)
    assert order.head(0.69) is ticket
    assert order.head(0.71) is other


def test_an_engine_slower_than_the_objective_parks_nobody_at_once() -> None:
    order = Timely(Fifo)
    order.lead_s = 30.0
    first, second = a_ticket(0.0, within_s=1.0), a_ticket(0.1, within_s=1.0)
    for each in (first, second):
        order.push(each)
    assert order.head(0.15) is first


def test_in_a_full_line_the_one_who_was_too_late_first_gives_way() -> None:
    order = Timely(Fifo)
    tickets = [a_ticket(float(i), within_s=1.0) for i in range(4)]
    for ticket in tickets:
        order.push(ticket)
    assert order.last() is tickets[-1], "while nobody is late"
    order.head(2.5)
    assert order.parked == 2
    assert order.last() is tickets[0]


def test_in_a_full_line_a_late_one_of_a_modest_caller_keeps_its_place() -> None:
    """It once gave its place as the first that was late: so who sent ten times as much pushed the others out."""
    order = make_order("fair")
    modest = a_ticket(0.0, key="modest", within_s=1.0)
    late, *greedy = [a_ticket(at, key="greedy", within_s=1.0) for at in (0.1, 2.0, 2.1, 2.2)]
    for ticket in (modest, late, *greedy):
        order.push(ticket)
    order.head(2.3)
    assert order.last() is late, "the one of the greedy that is late"
    order.remove(late)
    assert order.last() is greedy[-1], "none of them is, so their newest"
    for ticket in greedy:
        order.remove(ticket)
    assert order.last() is modest


def test_one_who_returned_never_gives_its_place() -> None:
    order = make_order("fair")
    returned, other = a_ticket(0.0, within_s=1.0), a_ticket(0.1, within_s=1.0)
    order.push(returned, front=True)
    assert order.last() is None
    order.push(other)
    assert order.last() is other
    order.take(returned)
    order.remove(other)
    assert order.last() is None


def test_under_twice_the_load_all_who_are_served_are_served_in_time() -> None:
    """Served one a second, asked twice as often, good within 5 s: first come first served is late with nearly all."""
    dice = random.Random(1)
    good: dict[str, int] = {}
    for name, order in (("fifo", Fifo()), ("timely", Timely(Fifo))):
        at, good[name] = 0.0, 0
        for now in range(200):
            while at <= now:
                order.push(a_ticket(at, within_s=5.0))
                at += dice.expovariate(2.0)
            head = order.head(float(now))
            if head is not None:
                order.take(head)
                good[name] += now - head.queued_from <= 5.0
    assert good["timely"] >= 190
    assert good["fifo"] < 40


def test_under_twice_the_load_as_many_are_served_in_time_and_at_once() -> None:
    """Served ten a second, asked twice as often, good within 5 s. Oldest first each would wait for all of the 5 s."""
    dice = random.Random(1)
    order = Timely(Fifo)
    at, waits_s = 0.0, []
    for turn in range(2000):
        now = turn / 10
        while at <= now:
            order.push(a_ticket(at, within_s=5.0))
            at += dice.expovariate(20.0)
        head = order.head(now)
        if head is not None:
            order.take(head)
            waits_s.append(now - head.queued_from)
    second_half = sorted(waits_s[1000:])
    assert second_half[990] <= 5.0
    assert second_half[900] < 1.0


def in_a_crowd(rank: int = 0) -> Timely:
    """An order of which half of the last requests of that rank came too late."""
    order = Timely(lambda: Priority(Fair), shared=True)
    for _ in range(64):
        for late in (True, False):
            ticket = a_ticket(0.0, within_s=0.0 if late else 1.0, rank=rank)
            order.push(ticket)
            order.head(0.0)
            order.remove(ticket) if late else order.take(ticket)
    return order


def test_where_far_more_comes_than_can_be_in_time_the_newest_goes_first() -> None:
    order = in_a_crowd()
    tickets = [a_ticket(i / 100, within_s=1.0) for i in range(8)]
    for ticket in tickets:
        order.push(ticket)
    assert order.before(tickets[-1]) == 0
    assert served(order, 0.075) == [*reversed(tickets[2:]), *tickets[:2]], "and the oldest where nobody has just come"


def test_of_a_crowd_nobody_is_told_a_time_but_those_that_are_late() -> None:
    """The first to come was told that it was next, and was the last to be served, or never in time."""
    order = in_a_crowd()
    ledger = a_ledger(slots=1, order=order)
    granted(ledger.offer(0.0))
    for at in (0.0, 0.5, 1.0, 1.5):
        waiting(ledger.offer(at, claim=Claim(within_s=1.0)))
        ledger.tick(at)
    line, newcomer_s = ledger.outlook(1.5, 10)
    assert [each.eta_s is None for each in line] == [True, True, False, False]
    assert [each.waited_s for each in line] == [0.5, 0.0, 1.5, 1.0], "in time first, and of those the first to come"
    assert newcomer_s is not None


def test_bursts_are_served_oldest_first() -> None:
    """Of those that come in bursts most are in time, and all of them can be."""
    order = Timely(lambda: Priority(Fair), shared=True)
    for late in (True, False, False, False, False) * 40:
        ticket = a_ticket(0.0, within_s=0.0 if late else 1.0)
        order.push(ticket)
        order.head(0.0)
        order.remove(ticket) if late else order.take(ticket)
    tickets = [a_ticket(i / 100, within_s=1.0) for i in range(8)]
    for ticket in tickets:
        order.push(ticket)
    assert served(order, 0.075) == tickets


def test_a_crowd_of_one_rank_leaves_the_others_in_their_order() -> None:
    order = in_a_crowd(rank=1)
    high = [a_ticket(i / 100, within_s=1.0) for i in range(8)]
    low = [a_ticket(i / 100, within_s=1.0, rank=1) for i in range(8)]
    for ticket in (*high, *low):
        order.push(ticket)
    assert served(order, 0.075) == [*high, *reversed(low[2:]), *low[:2]]


def test_who_need_not_be_early_is_served_first_come_first_served_whatever_the_crowd() -> None:
    order = in_a_crowd()
    tickets = [a_ticket(i / 100) for i in range(8)]
    for ticket in tickets:
        order.push(ticket)
    assert order.before(tickets[-1]) == 7
    assert served(order, 0.075) == tickets


@pytest.mark.parametrize("heavy", [0, 7])
def test_a_heavy_one_neither_overtakes_nor_is_overtaken(heavy: int) -> None:
    """It waits for slots to come free together, which they never do while light ones go past it."""
    order = in_a_crowd()
    tickets = [a_ticket(i / 100, within_s=1.0, weight=4 if i == heavy else 1) for i in range(8)]
    for ticket in tickets:
        order.push(ticket)
    assert order.head(0.075) is tickets[0]


def test_in_a_crowd_who_comes_back_as_it_was_told_goes_first_and_shares_stay_fair() -> None:
    order = in_a_crowd()
    greedy = [a_ticket(i / 1000, key="greedy", tokens=10.0, within_s=1.0) for i in range(40)]
    back = a_ticket(0.0, key="greedy", tokens=10.0, within_s=1.0, booked=True)
    modest = [a_ticket(i / 1000, key="modest", tokens=10.0, within_s=1.0) for i in range(40)]
    for ticket in (*greedy, back, *modest):
        order.push(ticket)
    first = served(order, 0.04)[:20]
    assert Counter(ticket.claim.key for ticket in first) == {"greedy": 10, "modest": 10}
    assert [ticket for ticket in first if ticket.claim.key == "greedy"] == [back, *reversed(greedy[-9:])]


def test_one_who_is_late_goes_before_those_in_time_of_a_lower_rank_and_keeps_its_place_against_them() -> None:
    order = make_order("fair")
    late_low = a_ticket(0.0, rank=1, within_s=1.0)
    late_high = a_ticket(0.5, rank=-1, within_s=1.0)
    low, high = a_ticket(2.0, rank=1, within_s=1.0), a_ticket(2.1, rank=-1, within_s=1.0)
    for ticket in (late_low, late_high, low, high):
        order.push(ticket)
    order.head(2.2)
    assert order.last() is late_low
    order.remove(late_low)
    assert order.last() is low, "of those that are left, no high one gives its place to a low one"
    order.push(late_low)
    assert served(order, 2.2) == [high, late_high, low, late_low]


# Those that must be early, and those that need not.


@pytest.mark.parametrize("name", ["priority", "fair"])
def test_those_that_must_be_early_and_those_that_need_not_take_turns(name: Name) -> None:
    order = make_order(name)
    patient = [a_ticket(0.0) for _ in range(4)]
    early = [a_ticket(0.1, within_s=5.0) for _ in range(3)]
    for ticket in (*patient, *early):
        order.push(ticket)
    assert order.before(early[-1]) == 4, "two of its own kind, and as many of the other"
    turns = [early[0], patient[0], early[1], patient[1], early[2], patient[2], patient[3]]
    assert list(order) == turns
    assert order.last() is patient[-1], "in a full line the longer of the two gives up a place"
    assert served(order, 0.2) == turns


def test_a_plain_line_knows_no_turns() -> None:
    order = make_order("fifo")
    tickets = [a_ticket(0.0), a_ticket(0.0), a_ticket(0.1, within_s=5.0)]
    for ticket in tickets:
        order.push(ticket)
    assert served(order, 0.2) == tickets


@pytest.mark.parametrize("name", ["priority", "fair"])
@pytest.mark.parametrize("load", [1.5, 4.0])
def test_neither_of_the_two_starves_the_other(name: Name, load: float) -> None:
    """Served ten a second. In one line the patient got all of it: they are older than any that is still early."""
    dice = random.Random(1)
    order = make_order(name)
    got: Counter[bool] = Counter()
    waits: list[Ticket] = []
    at = 0.0
    for turn in range(1500):
        now = turn / 10
        while at <= now:
            waits.append(a_ticket(at, within_s=dice.choice([5.0, inf])))
            order.push(waits[-1])
            at += dice.expovariate(10.0 * load)
        while waits and now - waits[0].queued_from > 30.0:
            order.remove(waits.pop(0))
        head = order.head(now)
        if head is not None:
            order.take(head)
            waits.remove(head)
            if now > 50.0 and now - head.queued_from <= head.claim.within_s:
                got[head.claim.within_s == inf] += 1
    assert got[True] == pytest.approx(got[False], rel=0.05)
    assert got.total() >= 980


# Those who come back as they were told.


@pytest.mark.parametrize("make", [Fifo, Fair, lambda: Timely(lambda: Priority(Fair))])
def test_who_comes_back_as_it_was_told_goes_before_who_is_new(make: Callable[[], Order]) -> None:
    order = make()
    new, back, newest, later = (a_ticket(key="a", booked=booked) for booked in (False, True, False, True))
    for ticket in (new, back, newest):
        order.push(ticket)
    assert order.last() is newest
    order.push(later)
    assert order.before(later) == 1
    assert list(order) == [back, later, new, newest]
    assert served(order) == [back, later, new, newest]


def test_who_comes_back_gets_no_more_than_its_share() -> None:
    order = make_order("fair")
    for _ in range(20):
        order.push(a_ticket(key="greedy", tokens=10.0, booked=True))
        order.push(a_ticket(key="modest", tokens=10.0))
    assert Counter(ticket.claim.key for ticket in served(order)[:20]) == {"greedy": 10, "modest": 10}


def test_in_a_full_line_who_came_back_keeps_its_place_though_it_is_late() -> None:
    order = make_order("fair")
    back = a_ticket(0.0, key="a", within_s=1.0, booked=True)
    late, new = a_ticket(0.1, key="a", within_s=1.0), a_ticket(2.0, key="a", within_s=1.0)
    for ticket in (back, late, new):
        order.push(ticket)
    order.head(2.1)
    assert order.last() is late
    order.remove(late)
    assert order.last() is new
    order.remove(new)
    assert order.last() is back
    assert served(order, 2.1) == [back]
