"""The log as docs/observability.md says that it can be read: every documented expression, on a real log."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.telemetry.test_outlet import fill
from tests.wire.client import chat
from tests.wire.gateway import Gateway, gateway
from tests.wire.scripted import JSON, SSE, TRIES, chunked, scripted_engine, sized
from tests.wire.test_metrics import HELLO, USAGE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs/observability.md").read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
TRACE = "0af7651916cd43dd8448eb211c80319c"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


COMMANDS = re.findall(r"^# (.+?)\n(jq .+?)(?=\n\n|\Z)", blocks("sh")[0], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def gate() -> Iterator[Gateway]:
    """A gateway that has seen an answer, a stream, an estimate, a fault of its caller's and one of its engine's."""
    with scripted_engine() as engine, gateway(engine.url) as running:
        running.ask(content_type="text/plain", x_request_id="door")
        engine.say(WHOLE)
        running.ask(chat(stream=False), x_request_id="whole")
        engine.say(SSE + chunked(HELLO, USAGE, b"data: [DONE]\n\n"))
        running.ask(x_request_id="stream", traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        engine.say(SSE + chunked(HELLO, b"data: [DONE]\n\n"))
        running.ask(x_request_id="estimated")
        running.ask(chat() | {"model": "no"}, x_request_id="fault")
        for _ in range(TRIES):
            engine.say(JSON.replace(b"200", b"666") + sized(b"{}"))
        running.ask(x_request_id="failed")
        for each in ("whole", "stream", "estimated", "fault", "failed"):
            running.logged(each)
        yield running


@pytest.fixture(scope="module")
def lines(gate: Gateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gate.log().splitlines()]


def test_every_line_is_an_object_with_a_time_a_level_and_a_message(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("debug", "info", "warning", "error")
        assert line["message"]


def test_line_of_a_request_has_the_documented_fields_in_their_order(lines: list[dict[str, Any]]) -> None:
    (example,) = re.findall(r"^```json\n(\{\"time\".*?)^```", (ROOT / "docs/api.md").read_text(), re.M | re.S)
    documented = list(json.loads(example))
    requests = [line for line in lines if line["message"] == "request"]
    assert len(requests) == 5
    for line in requests:
        assert list(line) == documented


def test_what_is_turned_away_at_the_door_is_counted_and_has_no_line(gate: Gateway) -> None:
    """Whoever has no key can't fill a disk."""
    gate.until_counted(1, reason="unsupported_media_type")
    assert "door" not in gate.log()


def test_log_that_nobody_reads_holds_nothing_up() -> None:
    """A terminal on hold, or a collector that hangs: with its pipe full the gateway answered nothing any more."""
    reads, writes = os.pipe()
    fill(writes)
    try:
        with scripted_engine() as engine, gateway(engine.url, log_to=writes) as gate:
            engine.say(WHOLE)
            assert gate.ask(chat(stream=False)).status == 200
            assert gate.get("/health").status_code == 200
            gate.terminate()
            assert gate.exit_status() == 0
    finally:
        os.close(reads)
        os.close(writes)


def test_engines_id_is_that_of_the_call(gate: Gateway) -> None:
    assert gate.logged("whole")["engine_request_id"].startswith("hg-")
    assert gate.logged("fault")["engine_request_id"] is None, "no engine was asked"
    assert gate.logged("failed")["engine_request_id"] != gate.logged("whole")["engine_request_id"]
    assert (gate.logged("failed")["level"], gate.logged("stream")["trace_id"]) == ("warning", TRACE)


@pytest.mark.parametrize(
    ("flags", "client"),
    [
        ((), "127.0.0.1"),
        (("--trusted-proxies", "10.0.0.0/8"), "127.0.0.1"),
        (("--trusted-proxies", "127.0.0.1,10.0.0.0/8"), "192.0.2.7"),
        (("--trusted-proxies", "127.0.0.1", "--log-client", "false"), None),
    ],
)
def test_line_says_whose_request_it_was_as_far_as_that_can_be_believed(flags: tuple[str, ...], client: str) -> None:
    with scripted_engine() as engine, gateway(engine.url, *flags) as gate:
        engine.say(WHOLE)
        gate.ask(chat(stream=False), x_request_id="one", x_forwarded_for="203.0.113.1, 192.0.2.7, 10.0.0.3")
        assert gate.logged("one")["client"] == client


def fields(program: str) -> set[str]:
    """The names that a program asks of a line."""
    program = re.sub(r'"[^"]*"', '""', program)
    asked = set(re.findall(r"(?<![\w)\]])\.([a-z_]+)", program))
    return asked | {name for inside in re.findall(r"\{([^}]*)\}", program) for name in _bare(inside)}


def _bare(inside: str) -> list[str]:
    return [name for part in inside.split(",") if re.fullmatch(r"[a-z_]+", name := part.strip())]


def test_fields_of_a_program_are_found() -> None:
    assert fields('select(.message == ".no") | {time, a: .b} | .[0].key') == {"message", "time", "b"}


@pytest.mark.parametrize(("what", "command"), COMMANDS, ids=[what.split(",")[0] for what, _ in COMMANDS])
def test_documented_jq_finds_what_it_says(
    lines: list[dict[str, Any]], gate: Gateway, tmp_path: Path, what: str, command: str
) -> None:
    (program,) = re.findall(r"'(.*?)'", command, re.DOTALL)
    (line,) = [line for line in lines if line.get("request_id") == "stream"]
    assert fields(program) <= set(line), f"{what}: there are no such fields"
    if shutil.which("jq") is None:
        pytest.skip("jq is not here: its programs' fields were looked at, and they were not run")
    (tmp_path / "headgate.log").write_text(gate.log())
    command = command.replace("hg-7ed595ba-2", line["engine_request_id"])
    ran = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip() not in ("", "null", "[]"), f"{what}: nothing was found"


def test_there_are_as_many_commands_as_there_are_comments() -> None:
    assert len(COMMANDS) == blocks("sh")[0].count("\n# ")


def test_fields_that_go_to_loki_exist(lines: list[dict[str, Any]]) -> None:
    (line,) = [line for line in lines if line.get("request_id") == "stream"]
    (alloy,) = blocks("alloy")
    (promtail,) = (yaml.safe_load(block)["pipeline_stages"] for block in blocks("yaml"))
    (expressions,) = re.findall(r"expressions = \{(.*?)\}", alloy, re.DOTALL)
    taken = dict(re.findall(r'(\w+)\s*= "(\w+)"', expressions))
    stages = {name: stage for each in promtail for name, stage in each.items()}
    assert stages["json"]["expressions"] == taken, "Alloy and Promtail take the same"
    assert set(taken.values()) <= set(line)
    labels = set(re.findall(r'(\w+) = ""', re.findall(r"stage.labels \{(.*?)\n  \}", alloy, re.DOTALL)[0]))
    assert labels == set(stages["labels"]) == {"level", "reason"}, "ids are no labels"
    for query in re.findall(r"\| json \| (\w+)", SECTION):
        assert query in line
