from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.telemetry.cost import Account, Charge, Costs

ANN, BOB = Account("m", "ann"), Account("m", "bob")
PER_HOUR, PER_KWH = 3600.0, 3.6e6
"""A dollar a second, and a dollar a joule."""

Bill = dict[tuple[str, ...], float]


def costs(*engines: str, gpu: float | None = PER_HOUR, energy: float | None = None) -> Costs:
    names = engines or ("e0",)
    books = Costs(0.0, names, gpu_price_per_hour=gpu, energy_price_per_kwh=energy)
    for name in names:
        books.turn(0.0, name, "m")
    return books


def test_who_is_alone_pays_for_all_of_the_time_however_many_slots() -> None:
    books = costs()
    one = books.join(0.0, "e0", ANN, 1)
    books.leave(10.0, one)
    many = books.join(10.0, "e0", ANN, 8)
    books.leave(20.0, many)
    assert books.dollars(20.0) == {("gpu", "m", "ann"): 20.0, ("idle", "m", "none"): 0.0}


def test_time_is_shared_by_weight_between_those_who_hold_slots_at_that_moment() -> None:
    books = costs()
    ann = books.join(0.0, "e0", ANN, 1)
    bob = books.join(4.0, "e0", BOB, 3)
    books.leave(8.0, ann)  # ann: 4 s alone, then a quarter of 4 s
    books.leave(10.0, bob)
    assert books.dollars(10.0) == pytest.approx(
        {("gpu", "m", "ann"): 5.0, ("gpu", "m", "bob"): 5.0, ("idle", "m", "none"): 0.0}
    )


def test_what_nobody_holds_is_idle() -> None:
    books = costs()
    charge = books.join(3.0, "e0", ANN, 1)
    books.leave(5.0, charge)
    assert books.dollars(9.0) == {("gpu", "m", "ann"): 2.0, ("idle", "m", "none"): 7.0}


def test_an_engine_that_is_off_costs_nothing_whoever_holds_its_slots() -> None:
    books = costs()
    charge = books.join(0.0, "e0", ANN, 1)
    books.turn(1.0, "e0", None)
    books.leave(5.0, charge)
    books.turn(9.0, "e0", "m")
    assert books.dollars(10.0) == {("gpu", "m", "ann"): 1.0, ("idle", "m", "none"): 1.0}


def test_engines_are_bills_of_their_own_and_idle_time_has_the_model_that_stood_idle() -> None:
    books = costs("e0", "e1")
    books.turn(0.0, "e1", "other-model")
    books.join(0.0, "e0", ANN, 1)
    assert books.dollars(6.0) == {
        ("gpu", "m", "ann"): 6.0,
        ("idle", "m", "none"): 0.0,
        ("idle", "other-model", "none"): 6.0,
    }


def test_what_runs_is_in_the_bill_before_it_ends_and_not_twice_after_it() -> None:
    books = costs()
    charge = books.join(0.0, "e0", ANN, 1)
    assert books.dollars(4.0)["gpu", "m", "ann"] == 4.0
    assert books.dollars(4.0)["gpu", "m", "ann"] == 4.0
    books.leave(6.0, charge)
    assert books.dollars(6.0)["gpu", "m", "ann"] == 6.0


def test_energy_is_shared_like_the_time_in_which_it_was_used() -> None:
    books = costs(gpu=None, energy=PER_KWH)
    books.read_meters(0.0, {"a": 1000.0, "b": 50.0})
    charge = books.join(5.0, "e0", ANN, 1)
    books.read_meters(10.0, {"a": 1080.0, "b": 70.0})
    books.leave(20.0, charge)
    assert books.dollars(20.0) == {("energy", "m", "ann"): 50.0, ("energy", "m", "none"): 50.0}
    books.read_meters(20.0, {"a": 1090.0, "b": 70.0})
    assert books.dollars(20.0) == {("energy", "m", "ann"): 60.0, ("energy", "m", "none"): 50.0}


def test_a_request_between_two_readings_of_the_meter_pays_its_share() -> None:
    books = costs(gpu=None, energy=PER_KWH)
    books.read_meters(1.0, {"a": 0.0})
    books.leave(3.0, books.join(2.0, "e0", ANN, 4))
    books.read_meters(5.0, {"a": 400.0})
    assert books.dollars(5.0) == {("energy", "m", "ann"): 100.0, ("energy", "m", "none"): 300.0}


def test_energy_from_before_the_first_reading_is_nobodys() -> None:
    books = costs(gpu=None, energy=PER_KWH)
    books.read_meters(7.0, {"a": 1e9})
    assert sum(books.dollars(8.0).values()) == 0


def test_a_meter_that_went_back_counts_from_there() -> None:
    books = costs(gpu=None, energy=PER_KWH)
    for now, joules in ((1.0, 1e9), (2.0, 1e9 - 0.001), (3.0, 1e9 + 1.999)):
        books.read_meters(now, {"a": joules})
    assert sum(books.dollars(3.0).values()) == pytest.approx(2.0)


def test_energy_used_while_no_meter_could_be_read_is_shared_over_that_time() -> None:
    books = costs(gpu=None, energy=PER_KWH)
    books.read_meters(1.0, {"a": 0.0})
    charge = books.join(2.0, "e0", ANN, 1)
    books.read_meters(4.0, {})
    books.leave(5.0, charge)
    books.read_meters(7.0, {"a": 60.0})
    assert books.dollars(7.0)["energy", "m", "ann"] == 30.0


def test_without_a_price_there_is_no_bill() -> None:
    books = costs(gpu=None)
    books.leave(2.0, books.join(1.0, "e0", ANN, 1))
    books.read_meters(2.0, {"a": 1.0})
    assert books.dollars(3.0) == {}


# Any course of events, against a model that walks every interval and looks at all who hold slots.

ENGINES = ("e0", "e1")


@dataclass
class Naive:
    """Who holds what, and what each moment cost, added up the slow way."""

    now: float = 0.0
    on: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(ENGINES, True))
    held: list[tuple[str, Account, int]] = field(default_factory=list)
    bill: Bill = field(default_factory=lambda: defaultdict(float))
    up_s: float = 0.0
    pending: Bill = field(default_factory=lambda: defaultdict(float))

    def pass_time(self, seconds: float) -> None:
        for engine in ENGINES:
            if self.on[engine]:
                self.up_s += seconds
                here = [(account, weight) for name, account, weight in self.held if name == engine]
                self._share(self.bill, "gpu", "idle", here, seconds)
        self._share(self.pending, "energy", "energy", [(a, w) for _, a, w in self.held], seconds)
        self.now += seconds

    def use(self, joules: float) -> None:
        total = sum(self.pending.values())
        for label, seconds in self.pending.items():
            self.bill[label] += joules * seconds / total
        self.pending.clear()

    @staticmethod
    def _share(bill: Bill, kind: str, idle: str, holders: list[tuple[Account, int]], seconds: float) -> None:
        total = sum(weight for _, weight in holders)
        for account, weight in holders:
            bill[kind, account.model, account.key] += seconds * weight / total
        if not holders:
            bill[idle, "m", "none"] += seconds


steps = st.lists(
    st.tuples(
        st.floats(0.001, 100),
        st.one_of(
            st.tuples(st.just("join"), st.sampled_from(ENGINES), st.sampled_from([ANN, BOB]), st.integers(1, 9)),
            st.tuples(st.just("leave"), st.integers(0, 50)),
            st.tuples(st.just("turn"), st.sampled_from(ENGINES)),
            st.tuples(st.just("scrape")),
            st.tuples(st.just("read"), st.floats(0, 1e4)),
        ),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_the_books_balance_whatever_happens(course: list[tuple[float, tuple[object, ...]]]) -> None:
    books, naive = costs(*ENGINES, energy=PER_KWH), Naive()
    books.read_meters(0.0, {"a": 0.0})
    charges: list[Charge] = []
    used_j = 0.0
    shown: Bill = {}
    for seconds, (what, *how) in course:
        naive.pass_time(seconds)
        now = naive.now
        match what, how:
            case "join", [str(engine), Account() as account, int(weight)]:
                charges.append(books.join(now, engine, account, weight))
                naive.held.append((engine, account, weight))
            case "leave", [int(which)] if charges:
                books.leave(now, charges.pop(which % len(charges)))
                naive.held.pop(which % len(naive.held))
            case "turn", [str(engine)]:
                naive.on[engine] = not naive.on[engine]
                books.turn(now, engine, "m" if naive.on[engine] else None)
            case "read", [float(joules)]:
                used_j += joules
                books.read_meters(now, {"a": used_j})
                naive.use(joules)
            case "scrape", []:
                before, shown = shown, books.dollars(now)
                assert all(shown[label] >= dollars for label, dollars in before.items()), "a counter went back"
    bill = books.dollars(naive.now)
    close: Callable[[float], object] = lambda value: pytest.approx(value, rel=1e-9, abs=1e-7)  # noqa: E731
    assert {label: value for label, value in bill.items() if value > 1e-7} == {
        label: close(value) for label, value in naive.bill.items() if value > 1e-7
    }
    assert sum(value for (kind, *_), value in bill.items() if kind != "energy") == close(naive.up_s)
