"""SIGTERM: newcomers are refused, what runs ends well, and the exit status says which it was."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, DONE, chat, request
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until
from tests.wire.test_refusals import check

if TYPE_CHECKING:
    from collections.abc import Iterator


def until_draining(gate: Gateway) -> None:
    wait_until(lambda: gate.get("/ready").json()["reason"] == "draining", "it drains")


def test_stream_runs_to_its_end_while_newcomers_are_told_draining(engine: Engine) -> None:
    with gateway(engine, "--max-active", "1") as gate, gate.client() as running, gate.client() as waiting:
        running.post(CHAT, chat(200)).until_events(1)
        waiting.post(CHAT, chat(2))
        gate.until(active=1, queued=1)
        gate.terminate()
        until_draining(gate)
        check(gate.ask(), "draining")
        check(gate.ask(chat(), "/v1/messages"), "draining", anthropic=True)
        assert gate.get("/ready").status_code == 503
        assert gate.get("/health").status_code == 200
        assert len(running.reply().text.split()) == 200
        assert waiting.reply().events[-1] == DONE, "who waited already is served"
        assert gate.exit_status() == 0


def test_no_engine_is_started_anew_while_the_gateway_drains() -> None:
    """It was cut off from what it still had to finish, or came up beside a gateway that had stopped its engines."""
    with gateway(None, "--admin-key", "open-sesame") as gate, gate.client() as running:
        running.post(CHAT, chat(200)).until_events(1)
        gate.terminate()
        until_draining(gate)
        refused = gate.http.post("/admin/engines/e0/restart", headers={"x-api-key": "open-sesame"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert len(running.reply().text.split()) == 200
        assert gate.exit_status() == 0


def test_every_answer_of_a_drain_says_that_its_connection_closes(engine: Engine) -> None:
    """Nothing told a balancer's kept connections: their next request met a closed one."""
    with (
        gateway(engine, "--max-active", "1") as gate,
        gate.client() as running,
        gate.client() as waiting,
        gate.client() as kept,
    ):
        assert "connection" not in kept.ask(CHAT, chat()).headers, "kept alive while nothing ends"
        running.post(CHAT, chat(200)).until_events(1)
        waiting.post(CHAT, chat(2, stream=False))
        gate.until(active=1, queued=1)
        gate.terminate()
        until_draining(gate)
        assert gate.get("/ready").headers["connection"] == "close"
        refused = kept.ask(CHAT, chat())
        check(refused, "draining")
        assert refused.headers["connection"] == "close"
        assert running.reply().events[-1] == DONE
        assert waiting.reply().headers["connection"] == "close"
        assert gate.exit_status() == 0


def test_drain_limit_ends_streams_with_an_error_event_and_exit_3() -> None:
    with (
        simulated_engine(*ROOMY) as engine,
        gateway(engine, "--max-active", "1", "--drain-timeout-s", "0.3") as gate,
        gate.client() as running,
        gate.client() as whole,
        gate.client() as waiting,
    ):
        running.post(CHAT, chat(4000)).until_events(1)
        whole.post(CHAT, chat(stream=False))
        waiting.post(CHAT, chat())
        gate.until(active=1, queued=2)
        gate.terminate()
        reply = running.reply()
        assert reply.data[-1]["error"]["code"] == "draining"
        assert reply.events[-1] == DONE
        assert reply.ended
        check(whole.reply(), "draining")
        check(waiting.reply(), "draining")
        assert gate.exit_status() == 3
        engine.state(inflight=0, open=0)


def test_second_signal_ends_at_once(engine: Engine) -> None:
    with (
        gateway(engine, "--drain-timeout-s", "3600", "--max-active", "1") as gate,
        gate.client() as running,
        gate.client() as waiting,
        gate.client() as arriving,
    ):
        running.post(CHAT, chat(4000), x_request_id="ran").until_events(1)
        arriving.send(request(CHAT, chat())[:-5])
        waiting.post(CHAT, chat(), x_request_id="waited")
        gate.until(active=1, queued=1)
        gate.terminate()
        until_draining(gate)
        gate.terminate()
        assert gate.exit_status() == 3
        assert running.reply().data[-1]["error"]["code"] == "draining", "and who is cut off is told so"
        check(waiting.reply(), "draining")
        check(arriving.reply(), "draining")
        assert gate.logged("ran")["reason"] == gate.logged("waited")["reason"] == "draining"


def test_idle_gateway_leaves_with_0_and_takes_its_engine_along() -> None:
    with gateway(None, "--engine-args", "--load-s 0") as gate:
        engine = gate.status()["engines"][0]["pid"]
        gate.terminate()
        assert gate.exit_status() == 0
        wait_until(lambda: not _alive(engine), "its engine is gone, too")


@pytest.fixture
def hung_up() -> Iterator[None]:
    """A suite that is run with nohup ignores SIGHUP, and so would the gateways that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hung_up")
def test_terminal_that_closes_drains() -> None:
    """Its SIGHUP killed the gateway: streams broke off without a word. Two (of shell and kernel) cut them off."""
    with gateway(None, "--engine-args", "--load-s 0") as gate, gate.client() as running:
        running.post(CHAT, chat(50)).until_events(1)
        gate.process.send_signal(signal.SIGHUP)
        until_draining(gate)
        gate.process.send_signal(signal.SIGHUP)
        assert len(running.reply().text.split()) == 50
        assert gate.exit_status() == 0


def test_killed_engine_ends_streams_in_an_error_and_those_who_wait_are_served_by_the_next() -> None:
    with gateway(
        None, "--max-active", "2", "--engine-args", "--load-s 0 --max-model-len 65536 --num-gpu-blocks 9999"
    ) as gate:
        pid = gate.status()["engines"][0]["pid"]
        with gate.client() as first, gate.client() as second, gate.client() as third, gate.client() as fourth:
            for client in (first, second):
                client.post(CHAT, chat(4000)).until_events(3)
            for client in (third, fourth):
                client.post(CHAT, chat(3))
            gate.until(active=2, queued=2)
            _kill(pid)
            for client in (first, second):
                reply = client.reply()
                assert reply.data[-1]["error"]["code"] == "engine_failed"
                assert reply.events[-1] == DONE
            for client in (third, fourth):
                reply = client.reply()
                assert (reply.status, reply.text.count(" ")) == (200, 2)
        gate.until(active=0, queued=0)
        engine = gate.status()["engines"][0]
        assert engine["starts"]["crash"] == 1
        assert engine["pid"] != pid


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
