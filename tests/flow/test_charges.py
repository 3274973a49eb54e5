from __future__ import annotations

import pytest

from headgate.charges import costs_now
from headgate.pool.launchers import Address, Launch
from headgate.pool.lifecycle import State
from headgate.pool.supervisor import Supervisor

OURS = Launch(kind="vllm", address=Address("127.0.0.1", 1), argv=("vllm",))
SOMEBODY_ELSES = Launch(kind="remote", address=Address("10.0.0.1", 8000))


def in_state(state: State, launch: Launch | None) -> Supervisor:
    engine = Supervisor("e0", lambda: OURS)
    engine.state, engine.launch = state, launch
    return engine


@pytest.mark.parametrize("state", list(State))
def test_an_engine_of_ours_costs_as_long_as_its_gpu_is_kept_for_it(state: State) -> None:
    """A crash doesn't give the GPU back: the next start wants it. Giving up does."""
    assert costs_now(in_state(state, OURS)) == (state not in (State.STOPPED, State.FAILED))


@pytest.mark.parametrize("state", list(State))
def test_somebody_elses_engine_costs_while_it_can_be_reached(state: State) -> None:
    reached = (State.READY, State.ASLEEP, State.DRAINING, State.WEDGED)
    assert costs_now(in_state(state, SOMEBODY_ELSES)) == (state in reached)


def test_an_engine_that_was_never_started_costs_nothing() -> None:
    assert not costs_now(in_state(State.STOPPED, None))
