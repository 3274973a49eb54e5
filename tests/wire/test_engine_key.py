"""An engine that wants a key gets ours, from the probe and with every request; the caller's own key stops here.

One that the gateway starts always wants one, and a new one at each start: else every user of the machine could go past
the gate, to the engine's port.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.simulated import simulated_engine
from tests.wire.client import CHAT, MODEL, chat
from tests.wire.gateway import gateway, wait_until

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway

KEY = "the-engines-own-key"
ENGINE_ARGS = "--engine-args=--load-s 0"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


def test_engine_with_a_key_is_found_ready_and_answers() -> None:
    with simulated_engine("--api-key", KEY) as engine, gateway(engine, "--engine-api-key", KEY) as gate:
        assert gate.ask(authorization="Bearer somebody-elses").status == 200


def test_engine_with_a_key_that_we_lack_is_not_ready_and_says_why() -> None:
    with simulated_engine("--api-key", KEY) as engine, gateway(engine, "--wake-timeout-s", "0.2", ready=False) as gate:
        assert gate.ask().status == 503
        why = "GET /v1/models is answered with 401, it wants a key (ENGINE_API_KEY)"
        status = gate.status()
        assert status["engines"][0]["failure"] == why
        assert status["standing"]["says"].endswith(f"{why}.")
        assert gate.log().count(why) == 1, "once, however often it is looked at"


def test_engine_that_refuses_our_key_says_so() -> None:
    ours = ("--engine-api-key", "another")
    with simulated_engine("--api-key", KEY) as engine, gateway(engine, *ours, ready=False) as gate:
        why = "GET /v1/models is answered with 401, it refuses the key that it is sent (ENGINE_API_KEY)"
        wait_until(lambda: engine_of(gate)["failure"] == why, "it is known")


def engine_of(gate: Gateway) -> dict[str, Any]:
    told: dict[str, Any] = gate.status()["engines"][0]
    return told


def key_of(pid: int) -> str:
    """The key in an engine's environment, where its own user can read it and nobody else but root."""
    path = Path(f"/proc/{pid}/environ")
    (entry,) = [entry for entry in path.read_bytes().split(bytes(1)) if entry.startswith(b"VLLM_API_KEY=")]
    return entry.decode().partition("=")[2]


def past_the_gate(url: str, **headers: str) -> list[int]:
    """What another process on this machine is answered by the engine itself."""
    with httpx.Client(base_url=url, trust_env=False, headers=headers) as outsider:
        return [outsider.post(CHAT, json=chat(3)).status_code, outsider.get("/v1/models").status_code]


@ON_LINUX
def test_a_process_without_the_key_gets_401_from_the_engine_and_callers_through_the_gateway_do_not() -> None:
    with gateway(None, ENGINE_ARGS, "--admin-key", "open-sesame") as gate:
        seen: list[tuple[int, str]] = []

        def look() -> None:
            engine = engine_of(gate)
            key = key_of(engine["pid"])
            assert past_the_gate(engine["url"]) == [401, 401]
            assert past_the_gate(engine["url"], authorization="Bearer somebody-elses") == [401, 401]
            assert past_the_gate(engine["url"], authorization=f"Bearer {key}") == [200, 200]
            assert gate.ask(chat(3)).status == 200
            assert gate.ask(chat(3), authorization="Bearer somebody-elses").status == 200
            assert gate.ask({"model": MODEL, "prompt": "a b"}, "/tokenize").status == 200
            assert "vllm:num_requests_running" in gate.get("/engines/e0/metrics").text
            assert key not in seen_by_an_operator(gate)
            seen.append((engine["pid"], key))

        look()
        os.kill(seen[0][0], signal.SIGKILL)
        wait_until(lambda: engine_of(gate)["pid"] not in (None, seen[0][0]), "another engine after a crash")
        gate.until_ready()
        look()
        gate.http.post("/admin/engines/e0/restart", headers={"x-api-key": "open-sesame"}).raise_for_status()
        wait_until(lambda: engine_of(gate)["pid"] not in (None, seen[1][0]), "another engine after a restart")
        gate.until_ready()
        look()
        assert len({key for _, key in seen}) == 3, "each start has a key of its own"


def seen_by_an_operator(gate: Gateway) -> str:
    """All that the gateway shows of itself, and the command lines of the machine's processes."""
    pages = [gate.get(path).text for path in ("/status", "/metrics", "/engines", "/engines/e0/metrics", "/ready")]
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_text(errors="replace"))
        except OSError:
            continue  # it has gone meanwhile
    return "\n".join([*pages, *commands, gate.log()])


@ON_LINUX
def test_the_operators_own_key_is_the_engines() -> None:
    with gateway(None, ENGINE_ARGS, env={"HEADGATE_ENGINE_API_KEY": KEY}) as gate:
        assert past_the_gate(engine_of(gate)["url"], authorization=f"Bearer {KEY}") == [200, 200]
        assert past_the_gate(engine_of(gate)["url"]) == [401, 401]
        assert gate.ask(chat(3)).status == 200


def test_an_engine_that_prints_its_key_before_it_dies_tells_nobody(tmp_path: Path) -> None:
    script = tmp_path / "talkative"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "print('given', os.environ['VLLM_API_KEY'], os.environ['VLLM_API_KEY'][::-1])\nsys.exit(1)\n"
    )
    script.chmod(0o755)
    flags = ("m", "--engine", "vllm", "--engine-command", str(script), "--log-level", "debug")
    with gateway(None, *flags, ready=False) as gate:
        lines = wait_until(lambda: engine_of(gate)["last_lines"], "its last words")
        given, shown, backwards = lines[-1].split()
        assert (given, shown) == ("given", "(key)")
        assert backwards[::-1] not in seen_by_an_operator(gate)
