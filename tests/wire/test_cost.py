"""Money on the wire: what the counters say of traffic whose cost is known. A GPU costs a dollar a second here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulated import Engine, simulated_engine
from tests.standins.nvml import standin
from tests.wire.client import MODEL, chat
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, sample, wait_until

COST = "api_cost_dollars_total"
KEYS = ("--api-key", "the-teams", "--admin-key", "the-operators")
LONG = 40_000

Bill = dict[tuple[str, str], float]


def bill(gate: Gateway) -> Bill:
    """All of it, by kind and key, from one scrape."""
    page = gate.get("/metrics").text
    kinds = (("gpu", "default"), ("gpu", "admin"), ("idle", "none"), ("energy", "default"), ("energy", "none"))
    return {(kind, key): sample(page, COST, {"kind": kind, "key": key, "model": MODEL}) for kind, key in kinds}


def grown(before: Bill, after: Bill) -> Bill:
    return {label: after[label] - before[label] for label in after}


@pytest.fixture(scope="module")
def _priced(_engine: Engine) -> Iterator[Gateway]:
    with gateway(_engine, "--max-active", "4", "--gpu-price-per-hour", "3600", *KEYS) as gate:
        yield gate


@pytest.fixture
def priced(_priced: Gateway, engine: Engine) -> Iterator[Gateway]:
    """A gateway with a price; what others have cost is on its bill too."""
    yield _priced
    engine.clear_faults()
    _priced.until(active=0, queued=0)


def test_without_a_price_nothing_is_said_of_money(gate: Gateway) -> None:
    assert COST not in gate.get("/metrics").text
    assert gate.status()["cost"] is None


def test_every_second_is_on_the_bill_once_idle_or_held_and_up_to_the_scrape(priced: Gateway) -> None:
    outer = time.monotonic()
    idle = bill(priced)
    inner = time.monotonic()
    with priced.client() as client:
        client.ask("/v1/chat/completions", chat(4), authorization="Bearer the-teams")
    with priced.client() as client:
        client.post("/v1/chat/completions", chat(LONG), authorization="Bearer the-teams").until_events(1)
        begun = bill(priced)
        client.until_events(50)
        running = bill(priced)
        # A stream that runs is charged while it runs, and nothing is idle meanwhile.
        assert running["gpu", "default"] > begun["gpu", "default"]
        assert running["idle", "none"] == begun["idle", "none"]
    priced.until(active=0)
    ended = bill(priced)
    wait_until(lambda: bill(priced)["idle", "none"] > ended["idle", "none"], "idle time is counted")
    inner = time.monotonic() - inner
    after = bill(priced)
    outer = time.monotonic() - outer
    assert after["gpu", "default"] == ended["gpu", "default"]
    assert inner <= sum(grown(idle, after).values()) <= outer


def test_those_who_share_an_engine_share_its_cost_by_weight(priced: Gateway) -> None:
    with priced.client() as heavy, priced.client() as light:
        heavy.post("/v1/chat/completions", chat(LONG, n=3), authorization="Bearer the-teams").until_events(1)
        light.post("/v1/chat/completions", chat(LONG), authorization="Bearer the-operators").until_events(1)
        before = bill(priced)
        light.until_events(100)
        shared = grown(before, bill(priced))
    assert shared["gpu", "default"] > 0
    assert shared["gpu", "default"] == pytest.approx(3 * shared["gpu", "admin"])
    assert shared["idle", "none"] == 0


@pytest.mark.parametrize(
    "fault", [{"kind": "error"}, {"kind": "cut", "after_events": 3}, {"kind": "reset", "times": 2}]
)
def test_a_request_that_failed_is_off_the_bill(priced: Gateway, engine: Engine, fault: dict[str, object]) -> None:
    before = bill(priced)
    engine.faults(fault)
    with priced.client() as client:
        client.ask("/v1/chat/completions", chat(8), authorization="Bearer the-teams")
    priced.until(active=0)
    ended = bill(priced)
    assert ended["gpu", "default"] > before["gpu", "default"]
    wait_until(lambda: bill(priced)["idle", "none"] > ended["idle", "none"], "the engine is idle again")
    assert bill(priced)["gpu", "default"] == ended["gpu", "default"]


def test_status_says_what_a_million_tokens_cost_with_idle_time_counted(engine: Engine) -> None:
    with gateway(engine, "--gpu-price-per-hour", "3600", *KEYS) as gate:
        assert gate.status()["cost"]["dollars_per_million_tokens"] is None
        with gate.client() as client:
            client.ask("/v1/chat/completions", chat(50), authorization="Bearer the-teams")
        gate.until_counted(50, "api_tokens_total", kind="completion")
        cost = gate.status()["cost"]
    assert (cost["gpu_price_per_hour"], cost["energy_price_per_kwh"], cost["dollars"]["energy"]) == (3600, None, None)
    dollars = cost["dollars"]["gpu"] + cost["dollars"]["idle"]
    assert cost["dollars_per_million_tokens"] == pytest.approx(dollars / 50 * 1e6, rel=1e-3)


def test_an_engine_that_cannot_be_reached_costs_nothing() -> None:
    with simulated_engine(*ROOMY) as engine, gateway(engine, "--gpu-price-per-hour", "3600") as gate:
        engine.process.kill()
        wait_until(lambda: gate.metric("api_engine_up") == 0, "it is lost")
        gone = bill(gate)
        assert gone["idle", "none"] > 0
        assert bill(gate) == gone


def test_our_own_engine_costs_from_its_start() -> None:
    with gateway(None, "--gpu-price-per-hour", "3600", "--engine-args", "--load-s 60", ready=False) as gate:
        wait_until(lambda: gate.metric(COST, kind="idle", model=MODEL, key="none") > 0, "loading costs")
        assert gate.metric("api_engine_up") == 0


def test_energy_is_charged_to_those_who_held_slots_while_it_was_used(engine: Engine, tmp_path: Path) -> None:
    nvml = standin(tmp_path).gpu(0, energy_mj=5_000_000).gpu(1, energy_mj=None)
    # Ten dollars for each kilojoule; what the counter showed before is nobody's.
    with gateway(engine, "--energy-price-per-kwh", "36000", *KEYS, env=nvml.env) as gate:
        wait_until(lambda: gate.status()["cost"]["dollars"]["energy"] == 0, "the meter was read once")
        nvml.set({"0.energy_mj": 6_000_000})
        wait_until(lambda: gate.metric(COST, key="none") == pytest.approx(10), "idle energy is nobody's")
        with gate.client() as client:
            client.post("/v1/chat/completions", chat(LONG), authorization="Bearer the-teams").until_events(1)
            nvml.set({"0.energy_mj": 6_500_000})
            wait_until(lambda: gate.metric(COST) == pytest.approx(15), "energy is charged")
            before = bill(gate)
            nvml.set({"0.energy_mj": 9_500_000})
            wait_until(lambda: gate.metric(COST) == pytest.approx(45), "and again, in time that was all held")
            assert grown(before, bill(gate))["energy", "default"] == pytest.approx(30)
        assert gate.status()["cost"]["dollars"]["gpu"] is None
