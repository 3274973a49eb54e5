"""What every client has in common: it is served, stopped, refused, left waiting, let down, and always knows which."""

from __future__ import annotations

import pytest

from tests.clients.running import LITELLM, NODE, Client, Told
from tests.simulated import Engine, simulated_engine
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until

pytestmark = pytest.mark.clients

TRIES = 3
"""Of every SDK here, where nothing else is said: the first, and two more."""
A_LONG_ONE = 60_000
"""Tokens that take six minutes: what is over within seconds was stopped."""
SOON_S = 0.9
"""By themselves all of them would come back within half a second."""


def length(told: Told) -> int:
    return len(told.text.split())


def code(client: Client, told: Told) -> str:
    """The reason, where a program finds it with this client."""
    error = told.raised
    if client.kind is LITELLM:  # it keeps the body of a 429 only
        return str(error["reason"])
    return str((error["body"]["error"] if client.kind.anthropic else error["body"])["code"])


def counted(gate: Gateway, client: Client, **labels: str) -> float:
    """Requests of this client's route that ended so."""
    return gate.metric("api_requests_total", route=client.kind.path, **labels)


# Served.


def test_whole_answer(client: Client, gate: Gateway) -> None:
    told = client.ask(gate, "whole", tokens=5).well
    assert length(told) == 5
    assert told.finish == ("max_tokens" if client.kind.anthropic else "length")
    assert told.usage is not None
    assert {told.usage.get("completion_tokens"), told.usage.get("output_tokens")} == {5, None}


def test_stream_comes_in_pieces_and_ends(client: Client, gate: Gateway) -> None:
    told = client.ask(gate, "streamed", tokens=20).well
    assert (length(told), told.pieces) == (20, 20)
    assert told.finish == ("max_tokens" if client.kind.anthropic else "length")
    assert client.ask(gate, "whole", tokens=20).text == told.text


def test_stream_with_usage(client: Client, gate: Gateway) -> None:
    told = client.ask(gate, "streamed", tokens=6, usage=True).well
    assert told.usage is not None
    assert {told.usage.get("completion_tokens"), told.usage.get("output_tokens")} == {6, None}
    assert length(told) == 6


def test_comments_while_an_answer_is_slow_to_begin_are_not_seen(client: Client, engine: Engine) -> None:
    with gateway(engine, "--status-hold-s", "0.1") as gate:
        engine.faults({"kind": "slow_head", "seconds": 0.5})
        told = client.ask(gate, "streamed", tokens=5).well
        assert length(told) == 5
        assert told.seconds > 0.4


def test_who_waits_in_line_is_served_at_the_first_try(client: Client, engine: Engine) -> None:
    with gateway(engine, "--max-active", "1") as gate:
        with gate.hold(1):
            client.start(gate, "streamed", tokens=5)
            gate.until(active=1, queued=1)
        assert length(client.told().well) == 5
        gate.until_counted(1, route=client.kind.path, status="200", reason="ok")
        assert gate.metric("api_refusals_total") == 0


def test_place_in_the_line_that_is_told_in_comments_disturbs_nobody(client: Client, engine: Engine) -> None:
    """Status 200 and comments go out while it waits; what becomes of it comes as the first event."""
    told_its_place = {"headers": {"x-headgate-wait": "events"}}
    with gateway(engine, "--max-active", "1", "--queue-timeout-s", "2") as gate:
        with gate.hold(1, tokens=A_LONG_ONE) as held:
            client.start(gate, "streamed", tokens=5, ask=told_its_place)
            gate.until(active=1, queued=1)
            held.close()
            assert length(client.told().well) == 5
        with gate.hold(1, tokens=A_LONG_ONE):
            told = client.ask(gate, "streamed", tokens=5, ask=told_its_place)
            assert "no slot came free" in told.raised["text"]
            assert told.finish is None
            assert counted(gate, client, reason="queue_timeout") == 1, "it is not tried again"


def test_request_that_comes_while_the_engine_loads_is_served_by_it(client: Client) -> None:
    with gateway(None, "--engine-args", "--load-s 0.5", ready=False) as gate:
        assert length(client.ask(gate, "whole", tokens=5).well) == 5
        assert gate.metric("api_refusals_total") == 0


# Stopped.


def test_stream_that_is_left_is_gone_from_the_engine_at_once(client: Client, gate: Gateway, engine: Engine) -> None:
    aborted = engine.state()["aborted"]
    told = client.ask(gate, "streamed", tokens=A_LONG_ONE, stop_after=3).well
    assert length(told) == 3
    engine.state(inflight=0, open=0, aborted=aborted + 1)
    gate.until(active=0)


def test_stream_of_a_cancelled_task_is_gone_from_the_engine_at_once(
    client: Client, gate: Gateway, engine: Engine
) -> None:
    aborted = engine.state()["aborted"]
    assert client.ask(gate, "cancelled", tokens=A_LONG_ONE, stop_after=3).well.more["cancelled"]
    engine.state(inflight=0, open=0, aborted=aborted + 1)
    gate.until(active=0)


# Refused.


def test_refusal_can_be_read_by_a_program(client: Client, engine: Engine) -> None:
    with gateway(engine, "--max-active", "1", "--queue-max", "0") as gate, gate.hold(1):
        told = client.ask(gate, "streamed", ask={"max_retries": 0})
        error = told.raised
        assert "RateLimitError" in [error["class"], *error["bases"]]
        assert error["status"] == 429
        assert code(client, told) == "queue_full"
        assert error["reason"] == "queue_full", "the response's headers can be reached"
        assert int(error["retry_after"]) >= 1
        assert "busy" in error["text"]
        assert counted(gate, client, status="429") == 1


def test_refused_client_comes_back_when_it_was_told_and_is_served(client: Client, engine: Engine) -> None:
    with gateway(engine, "--max-active", "1", "--queue-mode", "reject") as gate:
        with gate.hold(1):
            client.start(gate, "whole", tokens=5)
            gate.until_counted(1, route=client.kind.path, status="429", reason="slots_busy")
        told = client.told().well
        assert length(told) == 5
        assert told.seconds > SOON_S, "it was told a second"
        assert counted(gate, client, status="429") == 1


def test_client_that_is_refused_again_and_again_gives_up_after_three_tries(client: Client, engine: Engine) -> None:
    with gateway(engine, "--max-active", "1", "--queue-mode", "reject") as gate, gate.hold(1):
        told = client.ask(gate, "whole", note_pauses=True)
        assert told.raised["status"] == 429
        assert counted(gate, client, status="429") == TRIES
        assert len(told.slept) == TRIES - 1
        assert all(pause_s > SOON_S for pause_s in told.slept)


def test_longest_wait_that_is_ever_told_is_kept(client: Client, engine: Engine) -> None:
    """SDKs put a roof over what they obey, 60 s the lowest: beyond it they would come back at once."""
    with (
        gateway(engine, "--drain-timeout-s", "300", "--max-active", "1") as gate,
        gate.hold(1) as held,
    ):
        gate.terminate()
        wait_until(lambda: gate.get("/ready").json()["reason"] == "draining", "it drains")
        told = client.ask(gate, "whole", note_pauses=True)
        assert told.raised["status"] == 503
        assert code(client, told) == "draining"
        assert told.slept == [60.0, 60.0]
        held.close()
        assert gate.exit_status() == 0


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--queue-timeout-s", "0.2", "--max-active", "1"), "queue_timeout"),
        (("--wake-timeout-s", "0.2", "--engine-urls", "http://127.0.0.1:9"), "engine_unavailable"),
    ],
)
def test_503_can_be_read_by_a_program(client: Client, engine: Engine, flags: tuple[str, ...], reason: str) -> None:
    ready = reason != "engine_unavailable"
    with gateway(engine if ready else None, *flags, ready=ready) as gate, gate.hold(int(ready)):
        told = client.ask(gate, "whole", ask={"max_retries": 0})
        error = told.raised
        kinds = [error["class"], *error["bases"]]
        assert {"InternalServerError", "ServiceUnavailableError"} & set(kinds), kinds
        assert (error["status"], code(client, told)) == (503, reason)
        assert int(error["retry_after"]) >= 1


def test_wrong_key_is_not_tried_again(client: Client, engine: Engine) -> None:
    with gateway(engine, "--api-key", "the-right-key") as gate:
        error = client.ask(gate, "whole", ask={"key": "a-wrong-one"}).raised
        assert "AuthenticationError" in [error["class"], *error["bases"]]
        assert (error["status"], error["reason"]) == (401, "unauthorized")
        assert "not valid" in error["text"]
        assert counted(gate, client, status="401") == 1
        assert length(client.ask(gate, "whole", ask={"key": "the-right-key"}).well) == 4


def test_unknown_model_is_said_to_be_one(client: Client, gate: Gateway) -> None:
    error = client.ask(gate, "whole", model="no-such-model").raised
    assert "NotFoundError" in [error["class"], *error["bases"]]
    assert (error["status"], error["reason"]) == (404, "not_found")
    assert "no-such-model" in error["text"]


# Let down.


@pytest.mark.parametrize("kind", ["cut", "reset", "garbage", "error_event"])
def test_broken_stream_raises_and_what_came_is_kept(client: Client, gate: Gateway, engine: Engine, kind: str) -> None:
    engine.faults({"kind": kind, "after_events": 12, "message": "out of luck"})
    told = client.ask(gate, "streamed", tokens=50)
    assert told.finish is None
    assert 5 <= length(told) < 50
    assert ("out of luck" if kind == "error_event" else "cut short") in told.raised["text"]


def test_death_of_the_engine_in_mid_stream_raises(client: Client) -> None:
    with simulated_engine(*ROOMY) as engine, gateway(engine) as gate:
        engine.faults({"kind": "crash", "after_events": 12})
        told = client.ask(gate, "streamed", tokens=50)
        assert told.finish is None
        assert length(told) >= 5
        assert "cut short" in told.raised["text"]
        gate.until_counted(1, route=client.kind.path, status="200", reason="engine_failed")
        assert counted(gate, client) == 1, "nothing is sent twice"


def test_request_that_engines_fail_at_is_not_sent_again(client: Client, gate: Gateway, engine: Engine) -> None:
    """By themselves SDKs send every 5xx three times, and the gateway each of them to two engines."""
    seen = engine.state()["requests_seen"]
    engine.faults({"kind": "garbage_head", "times": None})
    told = client.ask(gate, "whole", note_pauses=True)
    assert told.raised["status"] == 502
    assert code(client, told) == "engine_failed"
    assert told.slept == []
    assert engine.state()["requests_seen"] == seen + 2


def test_own_time_limit_of_a_client_is_three_places_at_the_end_of_the_line(client: Client, engine: Engine) -> None:
    """A trap: a limit shorter than the line leaves it and comes back, each time behind everybody else."""
    with gateway(engine, "--max-active", "1") as gate, gate.hold(1):
        told = client.ask(gate, "whole", ask={"timeout": 0.3}, note_pauses=client.kind is not NODE)
        names = [told.raised["class"], *told.raised["bases"]]
        assert any("Timeout" in name for name in names), names
        gate.until(active=1, queued=0)
        gate.until_counted(TRIES, route=client.kind.path, status="499", reason="client_left")
