"""The ledger against a naive model, in whatever order Hypothesis thinks of."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headgate.errors import Reason
from headgate.gate.entries import Claim
from tests.gate.drive import ORDERS, drive
from tests.gate.model import Rig, Rules

EXAMPLES = 150
STEPS_PER_EXAMPLE = 200

an_index = st.integers(0, 50)
a_weight = st.sampled_from([1, 1, 1, 2, 3, 7])
some_bytes = st.sampled_from([0, 1, 10, 100])
some_seconds = st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0, 10.0])
a_request_timeout = st.sampled_from([0.0, 0.5, 2.0, 300.0])

a_claim = st.builds(
    Claim,
    key=st.sampled_from("ab"),
    user=st.sampled_from(["", "u"]),
    share=st.just(2.0),
    rank=st.sampled_from([-1, 0, 1]),
    tokens=st.sampled_from([1.0, 4.0, 64.0]),
    within_s=st.sampled_from([0.25, 1.0, math.inf]),
    deadline_s=st.sampled_from([0.5, math.inf]),
    most=st.sampled_from([None, 2, 2, 4]),
    booked=st.booleans(),
    answer=st.sampled_from([1.0, 100.0]),
)


class LedgerMachine(RuleBasedStateMachine):
    """Every rule is something that the shell does; every check is in the rig."""

    steps = 0
    rig: Rig

    @initialize(
        rules=st.builds(
            Rules,
            mode=st.sampled_from(["queue", "reject"]),
            queue_max=st.sampled_from([0, 1, 3, 8]),
            queue_max_bytes=st.sampled_from([50, 250, 10_000]),
            queue_timeout_s=st.sampled_from([0.5, 2.0, 30.0]),
            wake_timeout_s=st.sampled_from([0.5, 3.0, 30.0]),
            order=st.sampled_from(list(ORDERS.values())),
        )
    )
    def start(self, rules: Rules) -> None:
        self.rig = Rig(rules)

    @rule(weight=a_weight, size_bytes=some_bytes, request_timeout_s=a_request_timeout, claim=a_claim)
    def offer(self, weight: int, size_bytes: int, request_timeout_s: float, claim: Claim) -> None:
        self.rig.offer(weight, size_bytes, request_timeout_s, claim)

    @precondition(lambda self: self.rig.running or self.rig.ended)
    @rule(nth=an_index, tokens=st.sampled_from([0.0, 1.0, 100.0]))
    def settle(self, nth: int, tokens: float) -> None:
        self.rig.settle(nth, tokens)

    @precondition(lambda self: self.rig.running)
    @rule(nth=an_index, request_timeout_s=a_request_timeout)
    def come_back(self, nth: int, request_timeout_s: float) -> None:
        self.rig.come_back(nth, request_timeout_s)

    @precondition(lambda self: self.rig.line or self.rig.running)
    @rule(nth=an_index)
    def leave(self, nth: int) -> None:
        self.rig.leave(nth)

    @precondition(lambda self: self.rig.ended)
    @rule(nth=an_index)
    def leave_again(self, nth: int) -> None:
        self.rig.leave_again(nth)

    @rule(engine=st.sampled_from(["e0", "e1", "e2"]), slots=st.sampled_from([0, 1, 2, 3, 5, 8, 17]))
    def resize(self, engine: str, slots: int) -> None:
        self.rig.resize(engine, slots)

    @rule(engine=st.sampled_from(["e0", "e1", "e2"]), pace_s=st.sampled_from([0.0, 0.125, 0.5, 3.0]))
    def pace(self, engine: str, pace_s: float) -> None:
        self.rig.pace(engine, pace_s)

    @rule(token_s=st.sampled_from([0.001, 0.05, 2.0]))
    def tempo(self, token_s: float) -> None:
        self.rig.ledger.tempo(token_s)

    @rule(seconds=some_seconds, tick=st.booleans())
    def advance(self, seconds: float, tick: bool) -> None:
        self.rig.advance(seconds, tick=tick)

    @rule(limit_s=some_seconds)
    def close(self, limit_s: float) -> None:
        self.rig.close(limit_s)

    @rule()
    def evict(self) -> None:
        self.rig.evict()

    @precondition(lambda self: self.rig.draining)
    @rule()
    def start_anew(self) -> None:
        self.rig = Rig(self.rig.rules)

    @invariant()
    def holds(self) -> None:
        LedgerMachine.steps += 1
        self.rig.check()


def test_the_ledger_agrees_with_a_naive_model_over_20_000_steps() -> None:
    LedgerMachine.steps = 0
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS_PER_EXAMPLE,
            deadline=None,
            report_multiple_bugs=False,
        ),
    )
    assert LedgerMachine.steps >= 20_000


def test_the_long_drive_sees_grants_and_every_reason() -> None:
    driven = drive(steps=20_000, seed=1)
    assert driven.granted > 1000
    assert set(driven.refused) == {
        Reason.SLOTS_BUSY,
        Reason.QUEUE_FULL,
        Reason.WAIT_TOO_LONG,
        Reason.QUEUE_TIMEOUT,
        Reason.REQUEST_TIMEOUT,
        Reason.ENGINE_UNAVAILABLE,
        Reason.DRAINING,
    }
