"""Rules and alerts, by the tools of Prometheus and Alertmanager; and what each alert has to say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.anchors import anchors
from tests.monitoring.boards import metrics, queries
from tests.tools import tool

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "rules" / "headgate.yml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]


def passes(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_configuration_is_one_that_prometheus_takes(name: str) -> None:
    said = passes(tool("promtool"), "check", "config", f"monitoring/prometheus/{name}")
    assert "1 rule files found" in said


def test_rules_are_ones_that_prometheus_takes() -> None:
    passes(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@pytest.mark.parametrize("name", ["headgate_test.yml", "budget_test.yml"])
def test_each_alert_fires_where_it_should_and_not_near_it(name: str) -> None:
    passes(tool("promtool"), "test", "rules", f"monitoring/prometheus/tests/{name}")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_nothing_does() -> None:
    cases = [
        (test, expected)
        for path in (MONITORING / "prometheus" / "tests").glob("*.yml")
        for part in path.read_text().split("\n  # ")[1:]
        for test in yaml.safe_load("- " + part.partition("\n  - ")[2].replace("\n  ", "\n"))
        for expected in [part.split("\n", 1)[0].split(":")[0].split(",")[0]]
    ]
    for alert in ALERTS:
        expected = [
            [sample["labels"] for asked in test["promql_expr_test"] for sample in asked["exp_samples"]]
            for test, name in cases
            if name == alert["alert"]
        ]
        assert any(f'alertname="{alert["alert"]}"' in labels for case in expected for labels in case), alert["alert"]
        assert any(labels == [] for labels in expected), f"{alert['alert']} has no case near it"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Headgate")
    assert alert["labels"]["severity"] in ("critical", "warning")
    said = alert["annotations"]
    assert said["summary"].endswith("."), said["summary"]
    assert 80 <= len(said["description"]) <= 400, alert["alert"]
    page, _, anchor = said["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(ROOT / page), f"{page} has no section on {alert['alert']}"


def test_runbook_has_no_section_on_an_alert_that_there_is_not() -> None:
    sections = {anchor for anchor in anchors(ROOT / "docs/operations.md") if re.match(r"headgate[a-z]+$", anchor)}
    assert sections == {alert["alert"].lower() for alert in ALERTS}


def test_target_is_the_one_that_the_dashboards_take_where_there_are_no_rules() -> None:
    (rule,) = [rule for group in GROUPS for rule in group["rules"] if rule.get("record") == "headgate:slo_target:ratio"]
    target = re.fullmatch(r"vector\((.+)\)", rule["expr"])
    assert target
    fallbacks = {
        found
        for query in queries()
        for found in re.findall(r"headgate:slo_target:ratio or vector\(([\d.]+)\)", query.expr)
    }
    assert fallbacks == {target[1]}


def test_alertmanager_takes_the_example_and_it_wakes_somebody_only_for_what_is_critical() -> None:
    example = str(MONITORING / "alertmanager.yml")
    passes(tool("amtool"), "check-config", example)
    for alert in ALERTS:
        severity = alert["labels"]["severity"]
        route = passes(
            *(tool("amtool"), "config", "routes", "test", f"--config.file={example}"),
            *(f"alertname={alert['alert']}", f"severity={severity}"),
        )
        assert route.split()[0] == {"critical": "on-call", "warning": "working-hours"}[severity]


def test_inhibitions_name_alerts_that_there_are() -> None:
    known = [alert["alert"] for alert in ALERTS]
    example = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    for rule in example["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, pattern = re.fullmatch(r'(\w+)!?=~?"(.+)"', matcher).groups()  # type: ignore[union-attr]
            assert label == "alertname"
            assert all(any(re.fullmatch(one, name) for name in known) for one in pattern.split("|")), matcher


def test_what_happens_to_another_engine_or_gateway_is_not_kept_back() -> None:
    """One engine that was given up on kept back that its neighbour crashed, and that none was left."""
    fire = {
        "HeadgateEngineFailed a e0",
        *("HeadgateEngineCrashLoop a e0", "HeadgateEngineDown a e0", "HeadgateEngineWedged a e0"),
        *("HeadgateEngineCrashLoop a e1", "HeadgateEngineWedged a e2", "HeadgateNoEngine a", "HeadgateRefusing a"),
        *("HeadgateDown b", "HeadgateRefusing b", "HeadgateRefusing c", "HeadgateBudgetBurns", "HeadgateGpuHot c"),
    }
    assert kept_back(fire) == {
        *("HeadgateEngineCrashLoop a e0", "HeadgateEngineDown a e0", "HeadgateEngineWedged a e0"),
        *("HeadgateRefusing a", "HeadgateRefusing b", "HeadgateBudgetBurns"),
    }
    assert not kept_back({"HeadgateDown b", "HeadgateBudgetBurns"}), "others burn it"


def kept_back(fire: set[str]) -> set[str]:
    """Those of these alerts ("name gateway engine") that the example doesn't deliver, as Alertmanager does it."""
    alerts = {text: dict(zip(("alertname", "instance", "engine"), text.split(), strict=False)) for text in fire}

    def matches(matchers: list[str], alert: dict[str, str]) -> bool:
        for label, operator, pattern in re.findall(r'(\w+)(!?=~?)"(.+)"', " ".join(matchers).replace(" ", "\n")):
            if (re.fullmatch(pattern, alert.get(label, "")) is not None) == operator.startswith("!"):
                return False
        return True

    return {
        text
        for rule in yaml.safe_load((MONITORING / "alertmanager.yml").read_text())["inhibit_rules"]
        for text, target in alerts.items()
        for source in alerts.values()
        if matches(rule["source_matchers"], source) and matches(rule["target_matchers"], target)
        # A label that neither has is equal.
        if all(source.get(label) == target.get(label) for label in rule["equal"])
    }


def test_rules_read_metrics_that_the_dashboards_know() -> None:
    """And so those are tried against a real Prometheus."""
    read = {name for group in GROUPS for rule in group["rules"] for name in metrics(rule["expr"])}
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    shown = {name for query in queries() for name in metrics(query.expr)}
    only_where_used = {"api_keys_file_ok", "api_redis_up"}  # tests/wire asks a gateway that has them
    assert read - recorded - shown <= {"gpu_available", "vllm:request_success_total", *only_where_used}
