"""A real Prometheus finds every engine by the gateway's own list."""

from __future__ import annotations

import re
from pathlib import Path

from tests.monitoring.prometheus import CONFIGURED, Prometheus, prometheus
from tests.simulated import simulated_engine
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until


def engines_scraped(asked: Prometheus) -> dict[str, str]:
    """Name to health of the engines among the targets."""
    return {
        target["labels"]["engine"]: target["health"]
        for (job, _), target in asked.targets().items()
        if job == "vllm" and target["health"] != "unknown"
    }


def test_list_of_engines_has_prometheus_form() -> None:
    with simulated_engine(*ROOMY) as engine, gateway(engine, "--cors-origins", "http://llm.example.org") as gate:
        answer = gate.get("/engines")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        here = f"127.0.0.1:{gate.port}"
        assert answer.json() == [
            {"targets": [here], "labels": {"engine": "e0", "__metrics_path__": "/engines/e0/metrics"}}
        ]
        named = gate.get("/engines", host="llm.example.org").json()
        assert named[0]["targets"] == ["llm.example.org"], "the address that was asked, whatever it is called"
        with gate.client() as client:
            client.send(b"GET /engines HTTP/1.0\r\n\r\n")
            assert client.reply().status == 400, "nobody knows by what address it was asked"


def test_list_of_engines_is_closed_where_operation_is() -> None:
    env = {"HEADGATE_API_KEY": "sesame-open"}
    with simulated_engine(*ROOMY) as engine, gateway(engine, "--ops-auth", "key", env=env) as gate:
        assert gate.get("/engines").status_code == 401
        gate.authorize("sesame-open")
        assert gate.get("/engines").status_code == 200


def test_prometheus_scrapes_every_engine_with_its_name(tmp_path: Path) -> None:
    with (
        simulated_engine(*ROOMY) as first,
        simulated_engine(*ROOMY) as second,
        gateway(f"{first.url},{second.url}") as gate,
        prometheus(tmp_path, gateway=gate.port) as asked,
    ):
        wait_until(lambda: engines_scraped(asked) == {"e0": "up", "e1": "up"}, "both engines are scraped")
        ask_some(gate)
        found = asked.until("sum by (engine, exported_engine) (vllm:generation_tokens_total) > 0")
        labels = {(row["metric"]["engine"], row["metric"]["exported_engine"]) for row in found}
        assert labels <= {("e0", "0"), ("e1", "0")}, "vLLM's own `engine` label steps aside"


def test_prometheus_finds_the_engines_with_the_key_that_the_configuration_shows(tmp_path: Path) -> None:
    """Without its `type` the key of a list (`http_sd_configs`) goes out bare from Prometheus 2.42, and is refused."""
    shown = re.search(r"# +authorization: \{(.+), credentials_file: ", (CONFIGURED / "prometheus.yml").read_text())
    assert shown
    kind, _, value = shown[1].partition(": ")
    key = tmp_path / "key"
    key.write_text("sesame-open\n")
    authorization = {kind: value, "credentials_file": str(key)}
    env = {"HEADGATE_API_KEY": "sesame-open"}
    with (
        simulated_engine(*ROOMY) as engine,
        gateway(engine, "--ops-auth", "key", env=env) as gate,
        prometheus(tmp_path, key=authorization, gateway=gate.port) as asked,
    ):
        wait_until(lambda: engines_scraped(asked) == {"e0": "up"}, "the engine is scraped")


def ask_some(gate: Gateway) -> None:
    for _ in range(4):
        assert gate.ask().status == 200


def test_host_and_stack_differ_in_addresses_alone() -> None:
    host = (CONFIGURED / "prometheus.yml").read_text()
    for service in ("gateway", "dcgm-exporter", "alertmanager"):
        assert f"{service}:" in (CONFIGURED / "prometheus.compose.yml").read_text()
    stack = re.sub(
        r"(gateway|dcgm-exporter|alertmanager)(:\d)",
        r"127.0.0.1\2",
        (CONFIGURED / "prometheus.compose.yml").read_text(),
    )
    assert stack.splitlines()[1:] == host.splitlines()[2:]
