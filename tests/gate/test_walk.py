"""The whole gate, walked at random: see ``walk``, which goes further by itself."""

from __future__ import annotations

from headgate.errors import Reason
from tests.gate.walk import walks


def test_a_whole_gate_keeps_what_it_promises_over_4_000_steps() -> None:
    seen = walks(4_000, seed=1)
    assert seen["granted"] > 1000
    assert seen["stood aside"] > 100
    assert seen["booked"] > 100
    assert min(seen["dies"], seen["put_back"], seen["left"]) > 20
    assert {Reason.SHED, Reason.QUEUE_FULL, Reason.WAIT_TOO_LONG, Reason.QUEUE_TIMEOUT} <= set(seen)
