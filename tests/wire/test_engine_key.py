"""An engine that wants a key gets ours, from the probe and with every request; the caller's own key stops here."""

from __future__ import annotations

from tests.simulated import simulated_engine
from tests.wire.gateway import gateway

KEY = "the-engines-own-key"


def test_engine_with_a_key_is_found_ready_and_answers() -> None:
    with simulated_engine("--api-key", KEY) as engine, gateway(engine, "--engine-api-key", KEY) as gate:
        assert gate.ask(authorization="Bearer somebody-elses").status == 200


def test_engine_with_a_key_that_we_lack_is_not_ready_and_says_why() -> None:
    with simulated_engine("--api-key", KEY) as engine, gateway(engine, "--wake-timeout-s", "0.2", ready=False) as gate:
        assert gate.ask().status == 503
        assert "401" in str(gate.status()["engines"][0])
