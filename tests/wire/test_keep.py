"""ENGINE_KEEP=1: the engine outlives its gateway, however that goes, and the next one takes it over, or stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pool.engines import alive, gone
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="start times and boot ids are Linux's")
LOADING_S = 3.0
ARGS = f"--load-s {LOADING_S} --max-model-len 65536 --num-gpu-blocks 9999"
RECORD = "engine-0-e0.json"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """The cache folder that a test's gateways share; what they left running is stopped."""
    yield tmp_path
    command = [sys.executable, "-m", "headgate", "stop-engine", "--port", "0", "--cache-dir", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=False)
    assert not (tmp_path / RECORD).exists()


@contextmanager
def keeping(cache: Path, *flags: str, keep: str = "1", args: str = ARGS, ready: bool = True) -> Iterator[Gateway]:
    env = {"HEADGATE_CACHE_DIR": str(cache), "HEADGATE_ENGINE_KEEP": keep}
    with gateway(None, f"--engine-args={args}", *flags, env=env, ready=ready) as gate:
        yield gate


def engine(gate: Gateway) -> int:
    return int(gate.status()["engines"][0]["pid"])


def key_of(pid: int) -> str:
    """The key that an engine was started with, as only its own user can read it."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(bytes(1))
    (key,) = [entry[13:].decode() for entry in environment if entry.startswith(b"VLLM_API_KEY=")]
    return key


def test_the_next_gateway_takes_the_engine_over_without_its_start_however_the_last_one_ended(cache: Path) -> None:
    with keeping(cache) as gate:
        pid = engine(gate)
        key = key_of(pid)
        port = gate.status()["engines"][0]["url"]
        leave_at_work(gate, "drained")
    for way in ("killed", "two signals", None):
        assert alive([pid]) == [pid]
        with keeping(cache) as gate:
            assert engine(gate) == pid
            assert key_of(pid) == key, "and its record has its key"
            assert gate.status()["engines"][0]["last_wake_s"] < LOADING_S, "it did not load again"
            assert gate.status()["engines"][0]["url"] == port
            assert "taken over" in gate.log()
            assert gate.ask(chat(5)).text.count(" ") == 4
            until_idle(gate)
            if way is not None:
                leave_at_work(gate, way)


def until_idle(gate: Gateway) -> None:
    wait_until(lambda: gate.status()["engines"][0]["running"] in (0, None), "what the last gateway ran was aborted")


def leave_at_work(gate: Gateway, way: str) -> None:
    """A gateway ends in this way while an answer runs."""
    with gate.client() as running:
        running.post(CHAT, chat(60_000)).until_events(1)
        if way == "killed":
            gate.process.kill()
        else:
            gate.terminate()
            if way == "drained":
                running.close()
            else:
                wait_until(lambda: gate.get("/ready").json()["reason"] == "draining", "it drains")
                gate.terminate()
        assert gate.exit_status() == {"drained": 0, "killed": -signal.SIGKILL, "two signals": 3}[way]


def test_an_engine_that_dies_while_nobody_is_there_leaves_nothing_and_a_new_one_is_started(cache: Path) -> None:
    with keeping(cache, args="--load-s 0") as gate:
        pid = engine(gate)
    guard = json.loads((cache / RECORD).read_text())["guard"][0]
    os.kill(pid, signal.SIGKILL)
    assert gone([pid, guard])
    assert not (cache / RECORD).exists()
    with keeping(cache, args="--load-s 0") as gate:
        assert engine(gate) != pid


def test_an_engine_that_dies_after_it_was_taken_over_is_started_again_as_ever(cache: Path) -> None:
    with keeping(cache, args="--load-s 0") as gate:
        pid = engine(gate)
    with keeping(cache, args="--load-s 0") as gate:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engine_or_none(gate) not in (None, pid), "another engine")
        gate.until_ready()
        assert gate.status()["engines"][0]["starts"] == {"start": 1, "crash": 1}
        assert gate.ask(chat(5)).status == 200


def engine_or_none(gate: Gateway) -> int | None:
    pid: int | None = gate.status()["engines"][0]["pid"]
    return pid


@pytest.mark.parametrize(
    ("keep", "args", "said"),
    [("1", "--load-s 0 --max-num-seqs 7", "other arguments"), ("0", "--load-s 0", "ENGINE_KEEP is off")],
)
def test_what_is_not_what_would_be_started_is_stopped_and_that_is_said(
    cache: Path, keep: str, args: str, said: str
) -> None:
    with keeping(cache, args="--load-s 0") as gate:
        pid = engine(gate)
    assert alive([pid])
    with keeping(cache, keep=keep, args=args) as gate:
        assert gone([pid])
        assert engine(gate) != pid
        assert said in gate.log()


def test_a_second_signal_waits_for_no_engine_that_was_left_behind_and_starts_no_other(cache: Path) -> None:
    """It was heard when the old engine had had all its time to leave; a new one was started first, and killed."""
    with keeping(cache, args="--load-s 0") as gate:
        pid = engine(gate)
    os.kill(pid, signal.SIGSTOP)  # it will not leave by itself
    with keeping(cache, args="--load-s 0 --max-num-seqs 7", ready=False) as gate:
        wait_until(lambda: "other arguments" in gate.log(), "the old engine is being stopped")
        gate.terminate()
        wait_until(lambda: "draining" in gate.log(), "it drains")
        gate.terminate()
        assert gate.exit_status() == 3
        assert "starts at" not in gate.log()
    assert gone([pid])


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_second_gateway_of_the_same_port_leaves_the_first_ones_engine_to_it(cache: Path, taken_over: bool) -> None:
    """On another address, say: the record of its own engine took the other's place, and nothing ended that one ever.

    An engine that had been taken over was taken over again, by the second too: both gave out all of its slots.
    """
    if taken_over:
        with keeping(cache, args="--load-s 0"):
            pass
    with keeping(cache, args="--load-s 0") as first:
        pid = engine(first)
        with keeping(cache, args="--load-s 0") as second:
            others = engine(second)
            assert "not kept" in second.log()
        assert gone([others])
    with keeping(cache, args="--load-s 0") as gate:
        assert engine(gate) == pid


def test_an_engine_that_cannot_be_written_down_runs_and_ends_with_its_gateway(tmp_path: Path) -> None:
    """A full disk, say: it was killed at each start, and after five given up on."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with keeping(in_the_way / "cache", args="--load-s 0") as gate:
        pid = engine(gate)
        assert "can't be kept" in gate.log()
        assert gate.ask(chat(5)).status == 200
        gate.terminate()
        assert gate.exit_status() == 0
        assert gone([pid])
        assert "has stopped: exit status 0" in gate.log()


def test_a_record_is_believed_only_of_the_very_processes_that_it_names(cache: Path) -> None:
    with keeping(cache, args="--load-s 0") as gate:
        pid = engine(gate)
    path = cache / RECORD
    assert path.stat().st_mode & 0o777 == 0o600
    assert (cache / "engine-0-e0.sock").stat().st_mode & 0o777 == 0o600
    true = json.loads(path.read_text())
    try:
        for wrong in (
            {"boot_id": "another boot"},
            {"engine": [pid, true["engine"][1] + 1]},
            {"guard": [true["guard"][0], true["guard"][1] - 1]},
            {"engine": [os.getpid(), 1]},
        ):
            path.write_text(json.dumps(true | wrong | {"told": true["told"] | {"mark": "nobody's"}}))
            with keeping(cache, args="--load-s 0", keep="0") as gate:
                assert engine(gate) != pid
            assert alive([pid]), "and nothing is done to what it may be"
    finally:
        path.write_text(json.dumps(true))


def test_stop_engine_stops_it_and_says_so(cache: Path) -> None:
    """Of a gateway that had taken it over it killed the engine, after 26 s and with the guard."""
    command = [sys.executable, "-m", "headgate", "stop-engine", "--port", "0", "--cache-dir", str(cache)]
    for _ in range(2):
        with keeping(cache, args="--load-s 0") as gate:
            pid = engine(gate)
            refused = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (refused.returncode, "End the gateway first" in refused.stderr) == (1, True)
            assert gate.ask(chat(5)).status == 200
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"process {pid}" in ended.stdout
    assert gone([pid])
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 1


@pytest.mark.parametrize(("before", "after", "taken"), [("one", "one", True), ("one", "other", False)])
def test_a_given_key_that_has_changed_is_another_engine(cache: Path, before: str, after: str, taken: bool) -> None:
    with keeping(cache, "--engine-api-key", before, args="--load-s 0") as gate:
        pid = engine(gate)
    with keeping(cache, "--engine-api-key", after, args="--load-s 0") as gate:
        assert (engine(gate) == pid) is taken
        assert key_of(engine(gate)) == after
        assert gate.ask(chat(5)).status == 200
