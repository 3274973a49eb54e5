"""The table of an engine's life: what it allows, what it leaves out, and the picture drawn from it."""

from __future__ import annotations

import itertools

import pytest

from headgate.pool.lifecycle import TABLE, Event, IllegalTransition, State, advance, to_mermaid


def _reachable(start: State) -> set[State]:
    found, pending = {start}, [start]
    while pending:
        here = pending.pop()
        for (state, _), after in TABLE.items():
            if state is here and after not in found:
                found.add(after)
                pending.append(after)
    return found


def test_a_step_is_in_the_table_or_is_refused() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) in TABLE:
            assert advance(state, event) is TABLE[state, event]
        else:
            with pytest.raises(IllegalTransition, match=state):
                advance(state, event)


def test_every_state_can_be_reached_and_left_for_stopped() -> None:
    assert _reachable(State.STOPPED) == set(State)
    for state in State:
        assert State.STOPPED in _reachable(state)


def test_every_state_but_stopped_can_be_stopped() -> None:
    refusing = {state for state in State if (state, Event.STOP) not in TABLE}
    assert refusing == {State.STOPPED, State.STOPPING}


def test_an_unasked_exit_of_a_working_engine_leads_to_backoff_and_never_to_stopped() -> None:
    for state in (State.STARTING, State.READY, State.ASLEEP):
        assert advance(state, Event.EXITED) is State.BACKOFF


def test_only_a_start_or_a_stop_leaves_failed() -> None:
    assert {event for state, event in TABLE if state is State.FAILED} == {Event.START, Event.STOP}


def test_a_wedged_engine_is_never_made_ready_without_being_looked_at_again() -> None:
    assert State.READY not in {after for (state, _), after in TABLE.items() if state is State.WEDGED}


def test_the_picture_has_one_arrow_for_each_row() -> None:
    arrows = [line.strip() for line in to_mermaid().splitlines() if "-->" in line]
    assert arrows[0] == "[*] --> stopped"
    assert arrows[1:] == [f"{state} --> {after}: {event.value}" for (state, event), after in TABLE.items()]
