"""What is said of an order before it is carried out."""

from __future__ import annotations

import pytest

from headgate.api.admin import what_follows
from headgate.pool.lifecycle import State

AT_REST = {State.STOPPED, State.BACKOFF, State.FAILED}


@pytest.mark.parametrize("was", list(State))
def test_only_an_engine_that_runs_is_said_to_be_stopped_first(was: State) -> None:
    assert what_follows(was, is_ours=True).startswith("It is started now." if was in AT_REST else "It is stopped now")


def test_engine_of_somebody_else_is_not_said_to_be_started() -> None:
    assert "started" not in what_follows(State.READY, is_ours=False)
