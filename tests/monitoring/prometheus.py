"""A real Prometheus for tests: the committed configuration with a test's addresses and its pace, asked through its API.

with prometheus(tmp_path, gateway=gate.port) as asked:
    asked.until('up{job="headgate"} == 1')
"""

from __future__ import annotations

import json
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import yaml

from tests.tools import tool
from tests.wire.gateway import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CONFIGURED = ROOT / "monitoring" / "prometheus"
PACE = "1s"
"""Between two scrapes, and between two evaluations of the rules."""

Sample = dict[str, Any]


@dataclass(slots=True)
class Prometheus:
    """One that answers."""

    port: int
    log: IO[str]
    http: httpx.Client

    def get(self, path: str, **given: str | float) -> Any:
        """The ``data`` of its answer; AssertionError with its own words where it says no."""
        answer = self.http.get(f"/api/v1/{path}", params=given)
        said = answer.json()
        assert said["status"] == "success", f"{given}: {said.get('error')}"
        return said["data"]

    def query(self, expression: str) -> list[Sample]:
        """The series that an expression has now."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[Sample] = data["result"]
        return found

    def range(self, expression: str, start: float, end: float, step_s: float) -> list[Sample]:
        """The series that an expression has over a time."""
        data = self.get("query_range", query=expression, start=start, end=end, step=step_s)
        found: list[Sample] = data["result"]
        return found

    def until(self, expression: str, within_s: float = 30.0) -> list[Sample]:
        """The series of an expression, as soon as there is one."""
        found: list[Sample] = wait_until(lambda: self.query(expression), f"Prometheus has {expression}", within_s)
        return found

    def targets(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Its targets by job and address as scraped."""
        return {
            (target["labels"]["job"], target["scrapeUrl"]): target
            for target in self.get("targets", state="active")["activeTargets"]
        }


def hurried_rules(folder: Path) -> Path:
    """The committed rules in ``folder``, in a hurry: ten seconds instead of five minutes, and nothing has to last."""
    rules = yaml.safe_load((CONFIGURED / "rules" / "headgate.yml").read_text().replace("[5m]", "[10s]"))
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump(rules))
    return path


def configuration(folder: Path, rules: Path, key: dict[str, str] | None = None, **ports: int) -> Path:
    """The committed configuration in ``folder``, at a test's pace, its services on these ports.

    Args:
        rules: the rules to evaluate.
        key: ``authorization`` of the jobs that ask the gateway, and of its list of engines.
        ports: by service, ``gateway``, ``dcgm``, ``prometheus``; a job whose service isn't named is left out.
    """
    config = yaml.safe_load((CONFIGURED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": PACE, "evaluation_interval": PACE, "scrape_timeout": PACE}
    config["rule_files"] = [str(rules)]
    text = json.dumps(config)
    services = {"127.0.0.1:8080": "gateway", "127.0.0.1:9400": "dcgm", "127.0.0.1:9090": "prometheus"}
    for address, service in services.items():
        text = text.replace(address, f"127.0.0.1:{ports.get(service, 0)}")
    config = json.loads(text)
    config["scrape_configs"] = [job for job in config["scrape_configs"] if "127.0.0.1:0" not in json.dumps(job)]
    for job in config["scrape_configs"]:
        for discovery in job.get("http_sd_configs", ()):
            discovery["refresh_interval"] = "1s"
            discovery.update({"authorization": key} if key else {})
        job.update({"authorization": key} if key else {})
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def prometheus(
    folder: Path, *, hurried: bool = False, key: dict[str, str] | None = None, **ports: int
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes these services (see ``configuration``) and keeps its data in ``folder``.

    Args:
        hurried: alerts fire at once (``hurried_rules``).
        key: see ``configuration``.
    """
    program = tool("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rules = hurried_rules(folder) if hurried else CONFIGURED / "rules" / "*.yml"
    config = configuration(folder, rules, key, **{"prometheus": port, **ports})
    with ExitStack() as stack:
        log = stack.enter_context((folder / "prometheus.log").open("w+"))
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0, trust_env=False))
        wait_until(lambda: _ready(http, process, log), "Prometheus is ready")
        yield Prometheus(port, log, http)


def _ready(http: httpx.Client, process: subprocess.Popen[bytes], log: IO[str]) -> bool:
    if process.poll() is not None:
        log.seek(0)
        raise AssertionError(f"Prometheus did not start:\n{log.read()}")
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.HTTPError:
        return False
