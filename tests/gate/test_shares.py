"""What the orders do under overload to the urgent, to a backlog and to equal callers, in virtual time.

The bars are those of the design; docs/goodput.md has the tables.
"""

from __future__ import annotations

import pytest

from headgate.workbench.bench.figures import jain
from loadtest.overload.orders import greedy, play, priorities

HOW = {"seconds": 150.0, "warm_s": 60.0}


@pytest.mark.parametrize("seed", [2, 3])
def test_equal_callers_get_equal_shares_though_one_asks_for_ten_times_as_much(seed: int) -> None:
    plain = play("fifo", greedy(28.0), "mixed", seed=seed, **HOW)
    fair = play("fair", greedy(28.0), "mixed", seed=seed, **HOW)
    tokens, before = ([each.tokens_per_s for each in found] for found in (fair, plain))
    assert (jain(tokens) or 0.0) >= 0.95
    assert (jain(before) or 1.0) < 0.5, "or the load says nothing"
    assert sum(tokens) >= 0.98 * sum(before), "and nothing is lost by it"


EQUAL = "20 in, 40 out"


def test_neither_do_answers_of_one_length_come_in_waves() -> None:
    """Else a wave empties the line, and its slots go to whoever comes next: to the one who asks most."""
    tokens = [each.tokens_per_s for each in play("fair", greedy(130.0), EQUAL, seed=2, **HOW)]
    assert (jain(tokens) or 0.0) >= 0.99
    people, batch = priorities(43.0)
    (idle,) = play("fair", [people], EQUAL, seed=2, **HOW)
    high, _ = play("fair", [people, batch], EQUAL, seed=2, **HOW)
    assert high.answered == high.asked
    assert high.ttft_p95_s <= idle.ttft_p95_s + 0.1 * high.hold_s, "a slot comes free soon, whoever holds the others"


@pytest.mark.parametrize("order", ["priority", "fair"])
@pytest.mark.parametrize("seed", [2, 3])
def test_urgent_requests_wait_no_longer_than_for_one_that_runs(order: str, seed: int) -> None:
    people, batch = priorities(10.7)
    (idle,) = play("fair", [people], "mixed", seed=seed, **HOW)
    high, low = play(order, [people, batch], "mixed", seed=seed, **HOW)  # type: ignore[arg-type]
    residual_s = high.hold_s / 2
    assert high.answered == high.asked
    assert high.ttft_p95_s <= 1.3 * (idle.ttft_p95_s + residual_s)
    assert high.ttft_p95_s <= 2.0, "and by far not so long: one of eighty comes to its end much sooner"
    assert low.answered > 0.4 * low.asked, "the batch goes on"
    assert high.starved == low.starved == 0
