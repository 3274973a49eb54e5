"""What those who wait weigh together, of whom none takes more than the largest engine has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headgate.gate.entries import Weights
from headgate.gate.outcomes import Refused
from tests.gate.says import a_ledger, granted, waiting


@given(st.lists(st.integers(1, 20)), st.integers(0, 20), st.data())
def test_each_is_cut_to_the_largest_engine_of_the_moment(came: list[int], most: int, data: st.DataObject) -> None:
    weights = Weights()
    inside: list[int] = []
    for weight in came:
        weights.add(weight)
        inside.append(weight)
        if data.draw(st.booleans()):
            weights.remove(inside.pop(data.draw(st.integers(0, len(inside) - 1))))
    assert weights.all == sum(inside)
    assert weights.within(most) == sum(min(weight, most) for weight in inside)


def test_one_that_asks_for_far_more_than_there_is_counts_as_a_whole_engine() -> None:
    """All who came after it were told to wait for 9,996 slots that nobody will ever be given."""

    def told(heavy: int) -> tuple[float | None, float]:
        ledger = a_ledger(4, queue_max=10)
        for second in range(40):
            ledger.leave(second + 1.0, granted(ledger.offer(float(second))))
        for _ in range(4):
            granted(ledger.offer(40.0))
        for weight in (heavy, *[1] * 9):
            waiting(ledger.offer(40.0, weight))
        refused = ledger.offer(40.0)
        assert isinstance(refused, Refused)
        return ledger.outlook(40.0, 100)[1], refused.retry_after_s

    assert told(10_000) == told(4)
