"""An overloaded gateway, a real Prometheus, and the alerts that it raises."""

from __future__ import annotations

from typing import Any

from tests.monitoring.conftest import House
from tests.wire.gateway import wait_until


def firing(house: House) -> dict[str, dict[str, Any]]:
    """Alerts that fire, by name, as Prometheus would send them."""
    return {
        alert["labels"]["alertname"]: alert
        for alert in house.asked.get("alerts")["alerts"]
        if alert["state"] == "firing"
    }


def test_gateway_that_is_asked_for_too_much_raises_alerts_that_say_so(house: House) -> None:
    """By the committed rules, but for how long it has to last."""
    expected = {"HeadgateSaturated", "HeadgateRefusing"}
    wait_until(lambda: expected <= set(firing(house)), f"both fire; {sorted(firing(house))} do")
    refusing = firing(house)["HeadgateRefusing"]
    address = f"127.0.0.1:{house.gate.port}"
    assert refusing["labels"]["severity"] == "warning"
    assert refusing["labels"]["instance"] == address
    assert refusing["annotations"]["summary"].startswith(f"{address} refuses ")
    assert "%" in refusing["annotations"]["summary"], "its share is in it, in words that can be read"


def test_alerts_of_what_is_well_do_not_fire(house: House) -> None:
    """The engine came back after its crash, the gateway was never down, the GPUs are cool, the rules work."""
    house.asked.until("up{job='prometheus'} == 1")
    quiet = {
        *("HeadgateDown", "HeadgateAbsent", "HeadgateRestarting", "HeadgateNoEngine", "HeadgateEngineFailed"),
        *("HeadgateEngineWedged", "HeadgateGpuHot", "HeadgateGpuLost", "HeadgateRulesFail"),
    }
    wait_until(lambda: not quiet & set(firing(house)), "none of these fires (any more)")


def test_no_rule_fails(house: House) -> None:
    """Each is evaluated with what a real gateway shows: two series where one is expected would be an error."""
    for group in house.asked.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", f"{rule['name']}: {rule.get('lastError')}"
