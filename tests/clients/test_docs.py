"""The examples of docs/clients.md run as they stand there, but for the port."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.clients.running import HERE, KINDS, QUIET, ROOT, environment
from tests.simulated import Engine
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, gateway

pytestmark = pytest.mark.clients

PAGE = (ROOT / "docs/clients.md").read_text()


def examples(kind: str) -> list[tuple[str, str]]:
    """Client and code of each."""
    found = re.findall(rf"<!-- {kind}runs in: (.+?) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return [(name, code) for names, code in found for name in names.split(", ")]


EXAMPLES = examples("")
BATCHES = examples("a batch, ")
WORDS = 50


def run(name: str, code: str, gate: Gateway) -> str:
    """What the example prints."""
    here = code.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{gate.port}")
    assert here != code
    done = subprocess.run(
        [environment(name) / "bin" / "python", "-c", here],
        capture_output=True,
        text=True,
        env={**os.environ, **QUIET},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_python_client_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == {kind.name for kind in KINDS if kind.name != "node"}


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_example_streams_an_answer(name: str, code: str, gate: Gateway) -> None:
    said = run(name, code, gate)
    assert len(said.partition("\n")[0].split()) == WORDS
    assert name == "litellm" or f"tokens: {WORDS}" in said


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_example_shows_what_came_of_a_broken_answer_and_why(
    name: str, code: str, gate: Gateway, engine: Engine
) -> None:
    engine.faults({"kind": "cut", "after_events": 20})
    said = run(name, code, gate)
    assert 10 < len(said.partition("\n")[0].split()) < WORDS
    assert "engine_failed" in said or "cut short" in said


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_example_says_that_it_was_refused(name: str, code: str, engine: Engine) -> None:
    with gateway(engine, "--max-active", "1", "--queue-mode", "reject") as gate:
        with gate.client() as client:
            for _ in range(50):  # so that waits are short: of 51 who held the slot, one did for long
                assert client.ask(CHAT, chat(1, stream=False)).status == 200
        with gate.hold(1, tokens=60_000):
            said = run(name, code, gate)
    assert "429 slots_busy" in said


@pytest.mark.parametrize(("name", "code"), BATCHES, ids=[name for name, _ in BATCHES])
def test_batch_gets_all_its_answers_through_a_short_line(name: str, code: str, engine: Engine) -> None:
    with gateway(engine, "--max-active", "4", "--queue-max", "4") as gate:
        assert "100 answers" in run(name, code, gate)
        assert gate.status()["refused_total"] > 0


def test_page_names_the_versions_that_were_tried() -> None:
    pins = [line for file in HERE.glob("requirements-*.in") for line in file.read_text().split()]
    pins.append((HERE / "node" / "package.json").read_text().partition('"openai": "')[2].partition('"')[0])
    for pin in pins:
        assert pin.rpartition("=")[2] in PAGE, f"{pin} is not in docs/clients.md"
