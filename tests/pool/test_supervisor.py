"""An engine is launched, watched, restarted and stopped; with real processes that die in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import uvloop

from headgate.engines import Engines
from headgate.pool.backoff import Backoff
from headgate.pool.history import History
from headgate.pool.keep import Keep
from headgate.pool.launchers import LOOPBACK, Address, Launch, LoadProgress, free_port
from headgate.pool.launchers.remote import RemoteLauncher
from headgate.pool.lifecycle import State
from headgate.pool.pool import Pool
from headgate.pool.process import EngineProcess
from tests.pool.engines import DEADLINE_S, Family, Scripted, Watched, alive, children, command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROMPT = Backoff(first_s=0.01, cap_s=0.01)


def test_an_engine_is_ready_once_it_lists_a_model_and_stops_with_nothing_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        family = Family(tmp_path)
        engine = Watched(Scripted({"family": family.path, "helpers": ["group", "own session"]}))
        engine.supervisor.start()
        pids = await family.pids()
        await engine.until_state(State.READY)
        assert engine.supervisor.slots == 4
        assert engine.supervisor.models == ({"id": "toy", "max_model_len": 2048},)
        async with asyncio.timeout(DEADLINE_S):
            # Its guard may be slower to tell than it was to listen, and nothing tells that.
            while engine.supervisor.status()["pid"] is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert engine.supervisor.status()["pid"] == pids[0]
        await engine.supervisor.stop()
        assert alive(pids) == []
        assert engine.states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]
        assert engine.supervisor.slots == 0
        assert engine.supervisor.model_names == ("toy",), "what it serves is known while it is down"

    asyncio.run(scenario())


def test_a_model_with_no_name_is_none() -> None:
    """The gate was not told of an engine that listed one, though the gateway said that it was ready."""

    async def scenario() -> None:
        plan: dict[str, object] = {"nameless": [{"object": "model"}, {"id": None}]}
        engine = Watched(Scripted(plan))
        told: list[int] = []
        engines = Engines(Pool([engine.supervisor]), on_capacity=lambda _, slots: told.append(slots))
        engine.supervisor.start()
        await engine.until_state(State.READY)
        assert (engine.supervisor.model_names, engines.default_model, told[-1]) == (("toy",), "toy", 4)
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_that_lists_no_model_is_not_ready() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({"models": []}), start_timeout_s=0.5, backoff=Backoff(attempts=1))
        engine.supervisor.start()
        await engine.until_state(State.FAILED)
        assert State.READY not in engine.states
        assert engine.supervisor.failure == "not ready after 0.5 s (START_TIMEOUT_S): it lists no model"
        assert engine.supervisor.status()["trouble"] == "it lists no model"
        await engine.supervisor.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [0, 1])
def test_an_exit_that_nobody_asked_for_is_a_crash_whatever_its_status(code: int) -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({}), backoff=PROMPT)
        engine.supervisor.start()
        await engine.until_state(State.READY)
        address = engine.supervisor.address
        assert address is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(f"{address.url}/exit/{code}")
        await engine.until_state(State.READY, starts=2)
        # Its port may refuse us before its process is seen to be gone: then it is not ready first, and down next.
        assert [state for state in engine.states[1:] if state is not State.STARTING] == [
            State.READY,
            State.BACKOFF,
            State.READY,
        ]
        assert engine.supervisor.starts == {"start": 1, "crash": 1}
        assert engine.supervisor.address != address, "each start has a port of its own"
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_a_killed_engine_comes_back_and_leaves_no_orphan(tmp_path: Path) -> None:
    async def scenario() -> None:
        family = Family(tmp_path)
        engine = Watched(Scripted({"family": family.path, "helpers": ["group", "own session"]}), backoff=PROMPT)
        engine.supervisor.start()
        first = await family.pids()
        await engine.until_state(State.READY)
        os.kill(first[0], signal.SIGKILL)
        await engine.until_state(State.BACKOFF)
        assert alive(first) == [], "its orphans are gone before the next start"
        second = await family.pids()
        await engine.until_state(State.READY, starts=2)
        await engine.supervisor.stop()
        assert alive(second) == []

    asyncio.run(scenario())


def test_a_crash_loop_ends_in_failed_with_the_last_words_and_an_operators_restart_leaves_it() -> None:
    plan: dict[str, object] = {"prints": ["loading", "out of memory"], "exits": 1}

    async def scenario() -> None:
        engine = Watched(Scripted(plan), backoff=PROMPT)
        engines = Engines(Pool([engine.supervisor]), on_capacity=lambda *_: None)
        engine.supervisor.start()
        await engine.until_state(State.BACKOFF)
        assert not engines.given_up()
        await engine.until_state(State.FAILED)
        assert engines.given_up()
        assert engine.supervisor.starts == {"start": 1, "crash": 4}
        status = engine.supervisor.status()
        assert status["last_lines"] == ["loading", "out of memory"]
        assert status["failure"] == "ended by itself: exit status 1"
        assert status["eta_s"] is None
        engine.supervisor.start()
        assert engine.supervisor.state is State.FAILED, "only an operator leaves it"
        del plan["exits"]
        engine.supervisor.restart()
        await engine.until_state(State.READY)
        assert engine.supervisor.starts["operator"] == 1
        assert not engines.given_up()
        assert engine.supervisor.failure is None
        assert engine.supervisor.status()["last_lines"] == []
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_that_was_ready_is_started_again_however_often_it_crashes(tmp_path: Path) -> None:
    """Somebody who sent a request that kills it five times in a row had it given up on, for everybody."""

    async def scenario() -> None:
        family = Family(tmp_path)
        engine = Watched(Scripted({"family": family.path}), backoff=PROMPT)
        engine.supervisor.start()
        for life in range(1, PROMPT.attempts + 3):
            pids = await family.pids()
            await engine.until_state(State.READY, starts=life)
            os.kill(pids[0], signal.SIGKILL)
            await engine.until(lambda: engine.supervisor.state is not State.READY)
        assert State.FAILED not in engine.states
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_a_failed_engine_can_be_stopped() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({"exits": 1}), backoff=Backoff(attempts=1))
        engine.supervisor.start()
        await engine.until_state(State.FAILED)
        await engine.supervisor.stop()
        assert engine.supervisor.state is State.STOPPED

    asyncio.run(scenario())


def test_a_stop_cuts_a_backoff_short() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({"exits": 1}), backoff=Backoff(first_s=1000, cap_s=1000))
        engine.supervisor.start()
        await engine.until_state(State.BACKOFF)
        async with asyncio.timeout(DEADLINE_S):
            await engine.supervisor.stop()

    asyncio.run(scenario())


def test_a_restart_replaces_a_running_engine_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        family = Family(tmp_path)
        engine = Watched(Scripted({"family": family.path}))
        engine.supervisor.start()
        first = await family.pids()
        await engine.until_state(State.READY)
        engine.supervisor.restart()
        second = await family.pids()
        assert alive(first) == []
        await engine.until_state(State.READY, starts=2)
        assert engine.supervisor.starts == {"start": 1, "operator": 1}
        await engine.supervisor.stop()
        assert alive(second) == []

    asyncio.run(scenario())


def test_a_start_asked_for_while_it_stops_follows_the_stop() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({"ignores_sigterm": True}, stop_grace_s=0.2))
        engine.supervisor.start()
        await engine.until_state(State.READY)
        stopping = asyncio.create_task(engine.supervisor.stop())
        await engine.until_state(State.STOPPING)
        engine.supervisor.start()
        await stopping
        await engine.until_state(State.READY, starts=2)
        assert engine.states[2:] == [State.STOPPING, State.STOPPED, State.STARTING, State.READY]
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_many_wakers_cause_one_start() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({}))
        for _ in range(1000):
            engine.supervisor.start()
        await engine.until_state(State.READY)
        for _ in range(1000):
            engine.supervisor.start()
        assert engine.supervisor.starts == {"start": 1}
        await asyncio.gather(*(engine.supervisor.stop() for _ in range(100)))
        assert engine.supervisor.state is State.STOPPED

    asyncio.run(scenario())


def test_a_stop_right_after_a_start_leaves_nothing_running() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({}))
        engine.supervisor.start()
        await engine.supervisor.stop()
        assert engine.supervisor.state is State.STOPPED
        engine.supervisor.start()
        await engine.until_state(State.STARTING)
        await engine.supervisor.stop()
        assert engine.supervisor.state is State.STOPPED

    asyncio.run(scenario())


def test_an_engine_that_is_not_written_down_yet_is_not_left_running(tmp_path: Path) -> None:
    """It would be written down after the next gateway had looked, and that one's record would take its place."""

    async def scenario() -> None:
        engine = Watched(Scripted({}), keep=Keep(tmp_path, "engine", wanted=True))
        engine.supervisor.start()
        await engine.until(lambda: engine.supervisor.address is not None)
        assert engine.supervisor.status()["pid"] is None, "its guard has told nothing yet"
        await engine.supervisor.stop()
        assert children() == []
        assert os.listdir(tmp_path) == []

    asyncio.run(scenario())


def test_a_draining_engine_takes_no_work_and_is_not_brought_back_when_it_dies(tmp_path: Path) -> None:
    async def scenario() -> None:
        family = Family(tmp_path)
        engine = Watched(Scripted({"family": family.path}), backoff=PROMPT)
        engine.supervisor.start()
        pids = await family.pids()
        await engine.until_state(State.READY)
        engine.supervisor.drain()
        assert engine.supervisor.slots == 0
        os.kill(pids[0], signal.SIGKILL)
        await engine.until_state(State.STOPPED)
        await engine.supervisor.stop()
        assert engine.supervisor.starts.total() == 1

    asyncio.run(scenario())


def test_a_command_that_does_not_exist_ends_in_failed_and_says_so() -> None:
    def launch() -> Launch:
        return Launch(kind="x", address=Address(LOOPBACK, free_port()), argv=("/no/such/engine",))

    async def scenario() -> None:
        engine = Watched(launch, backoff=PROMPT)
        engine.supervisor.start()
        await engine.until_state(State.FAILED)
        lines = engine.supervisor.status()["last_lines"]
        assert lines == ["cannot start /no/such/engine: No such file or directory"]
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_a_launch_that_cannot_be_made_is_tried_for_as_long_as_it_takes() -> None:
    """The engine was given up on for what it had no part in: when there were files again, nothing started it."""
    missing = [OSError("no port is free")] * (PROMPT.attempts + 1)

    def launch() -> Launch:
        if missing:
            raise missing.pop()
        return Scripted({})()

    async def scenario() -> None:
        engine = Watched(launch, backoff=PROMPT)
        engine.supervisor.start()
        await engine.until(lambda: "no port is free" in str(engine.supervisor.failure))
        await engine.until_state(State.READY)
        assert State.FAILED not in engine.states
        await engine.supervisor.stop()

    asyncio.run(scenario())


COUNTERS = """\
vllm:num_requests_running{engine="0"} 1.0
vllm:generation_tokens_total{engine="0"} 100.0
vllm:iteration_tokens_total_count{engine="0"} 10.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
"""


def test_an_engine_with_work_whose_counters_stand_still_is_killed_and_started_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        page = tmp_path / "metrics"
        page.write_text(COUNTERS)
        family = Family(tmp_path)
        plan: dict[str, object] = {
            "metrics": str(page),
            "family": family.path,
            "ignores_sigterm": True,
            "helpers": ["own session"],
        }
        # A grace of an hour: a hung engine must not be granted it.
        engine = Watched(Scripted(plan, stop_grace_s=3600), in_flight=lambda: 1, wedged_after_s=0.4)
        engine.supervisor.start()
        first = await family.pids()
        del plan["ignores_sigterm"]  # the next one may be stopped
        await engine.until_state(State.STARTING, starts=2)
        assert alive(first) == []
        assert engine.states == [
            State.STARTING,
            State.READY,
            State.WEDGED,
            State.BACKOFF,
            State.STARTING,
        ]
        assert engine.supervisor.starts == {"start": 1, "wedged": 1}
        await family.pids()
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_that_says_it_is_dead_gets_no_work_and_is_restarted_if_it_does_not_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        health = tmp_path / "health"
        health.write_text("200")
        history, days_s = History(), 0.0
        history.record("scripted", 40)
        engine = Watched(
            Scripted({"health": str(health)}),
            wedged_after_s=0.3,
            history=history,
            clock=lambda: time.monotonic() + days_s,
        )
        engine.supervisor.start()
        await engine.until_state(State.READY)
        days_s = 300_000
        health.write_text("503")
        engine.supervisor.suspect()
        await engine.until_state(State.STARTING)
        assert (engine.supervisor.eta_s(time.monotonic() + days_s) or 0) < 40, "it has not been starting for days"
        assert engine.supervisor.failure == "its /health says that it cannot work"
        await engine.until(lambda: engine.supervisor.starts["wedged"] == 1)
        health.write_text("200")
        await engine.until_state(State.READY, starts=2)
        assert engine.states.count(State.READY) == 2, "listing a model did not make the dead one ready again"
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_that_hangs_with_its_whole_server_is_wedged_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        page = tmp_path / "metrics"
        page.write_text(COUNTERS)
        family = Family(tmp_path)
        engine = Watched(
            Scripted({"metrics": str(page), "family": family.path}), in_flight=lambda: 1, wedged_after_s=1.0
        )
        engine.supervisor.start()
        pids = await family.pids()
        await engine.until_state(State.READY)
        os.kill(pids[0], signal.SIGSTOP)
        await engine.until(lambda: State.WEDGED in engine.states)
        await family.pids()
        assert alive(pids) == []
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_that_listens_and_never_answered_is_restarted(tmp_path: Path) -> None:
    """One that had hung when its gateway ended was taken over by the next, and waited for as if it loaded."""

    async def scenario() -> None:
        family = Family(tmp_path)
        plan: dict[str, object] = {"family": family.path, "is_silent": True}
        engine = Watched(Scripted(plan, stop_grace_s=3600), wedged_after_s=0.3)
        engine.supervisor.start()
        pids = await family.pids()
        del plan["is_silent"]
        await engine.until_state(State.READY, starts=2)
        assert alive(pids) == []
        assert engine.supervisor.starts == {"start": 1, "wedged": 1}
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_that_hangs_in_every_start_is_given_up_on() -> None:
    """It was started again at once, without end: only an exit counted as a failure."""

    async def scenario() -> None:
        backoff = Backoff(first_s=0.01, cap_s=0.01, attempts=3)
        engine = Watched(Scripted({"is_silent": True, "prints": ["loaded"]}), wedged_after_s=0.1, backoff=backoff)
        engine.supervisor.start()
        await engine.until_state(State.FAILED)
        assert engine.supervisor.starts == {"start": 1, "wedged": 2}
        assert engine.states.count(State.BACKOFF) == 3
        status = engine.supervisor.status()
        assert status["last_lines"] == ["loaded"]
        assert "listens and has answered nothing" in str(status["failure"])
        await engine.supervisor.stop()
        assert children() == []

    asyncio.run(scenario())


def test_a_stop_at_once_does_not_wait_for_an_engine_that_is_asked_to_leave() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({"ignores_sigterm": True}, stop_grace_s=3600))
        engine.supervisor.start()
        await engine.until_state(State.READY)
        stopping = asyncio.create_task(engine.supervisor.stop())
        await engine.until_state(State.STOPPING)
        async with asyncio.timeout(DEADLINE_S):
            await engine.supervisor.stop(at_once=True)
            await stopping
        engine.supervisor.start()
        await engine.until_state(State.READY, starts=2)
        async with asyncio.timeout(DEADLINE_S):
            await engine.supervisor.stop(at_once=True)
        assert children() == []

    asyncio.run(scenario())


def test_a_suspected_engine_that_hangs_is_restarted_though_it_has_no_work(tmp_path: Path) -> None:
    async def scenario() -> None:
        family = Family(tmp_path)
        engine = Watched(Scripted({"family": family.path}), wedged_after_s=0.2)
        engine.supervisor.start()
        pids = await family.pids()
        await engine.until_state(State.READY)
        os.kill(pids[0], signal.SIGSTOP)
        engine.supervisor.suspect()
        assert engine.supervisor.slots == 0
        assert not await engine.supervisor.looked_at()
        await family.pids()
        assert alive(pids) == []
        await engine.until_state(State.READY, starts=2)
        assert engine.supervisor.starts == {"start": 1, "wedged": 1}
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_a_suspected_engine_that_is_well_has_its_slots_back_after_one_look() -> None:
    async def scenario() -> None:
        engine = Watched(Scripted({}))
        engine.supervisor.start()
        await engine.until_state(State.READY)
        for _ in range(100):
            engine.supervisor.suspect()
        assert engine.supervisor.slots == 0
        assert await engine.supervisor.looked_at()
        assert engine.supervisor.slots == 4
        assert engine.states == [State.STARTING, State.READY]
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_an_engine_whose_relay_makes_progress_is_not_wedged(tmp_path: Path) -> None:
    async def scenario() -> None:
        page = tmp_path / "metrics"
        page.write_text(COUNTERS)
        looks = 0
        enough = asyncio.Event()

        def relayed() -> int:
            nonlocal looks
            looks += 1
            if looks == 100:
                enough.set()
            return looks

        engine = Watched(Scripted({"metrics": str(page)}), in_flight=lambda: 1, relayed=relayed, wedged_after_s=0.3)
        engine.supervisor.start()
        await asyncio.wait_for(enough.wait(), DEADLINE_S)
        assert engine.states == [State.STARTING, State.READY]
        assert str(engine.supervisor.status()["running"]) == "1", "a count, and no 1.0"
        await engine.supervisor.stop()

    asyncio.run(scenario())


def test_a_remote_engine_is_looked_at_lost_and_found_again() -> None:
    async def scenario() -> None:
        port = free_port()
        engine = Watched(RemoteLauncher(Address(LOOPBACK, port)))
        engine.supervisor.start()
        theirs = await EngineProcess.start(command(port), {})
        await engine.until_state(State.READY)
        assert engine.supervisor.slots == 8
        await theirs.kill()
        engine.supervisor.suspect()
        await engine.until_state(State.STARTING)
        assert engine.supervisor.slots == 0
        theirs = await EngineProcess.start(command(port, models=["a", "b"]), {})
        await engine.until_state(State.READY)
        assert engine.supervisor.model_names == ("a", "b")
        assert engine.supervisor.starts == {"start": 1}
        await engine.supervisor.stop()
        assert not theirs.has_ended, "what somebody else runs is not stopped"
        await theirs.kill()

    asyncio.run(scenario())


def test_a_wedged_remote_engine_gets_no_work_until_it_moves(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        page = tmp_path / "metrics"
        page.write_text(COUNTERS)
        theirs = await EngineProcess.start(command(port, metrics=str(page)), {})
        engine = Watched(RemoteLauncher(Address(LOOPBACK, port)), in_flight=lambda: 1, wedged_after_s=0.3)
        engine.supervisor.start()
        await engine.until_state(State.WEDGED)
        assert engine.supervisor.slots == 0
        page.write_text(COUNTERS.replace("100.0", "101.0"))
        await engine.until_state(State.READY)
        await engine.supervisor.stop()
        await theirs.kill()

    asyncio.run(scenario())


def test_starts_are_remembered_and_the_load_is_told_while_it_lasts() -> None:
    def launch() -> Launch:
        made = Scripted({"prints": ["weights 50%"], "models": []})()
        return Launch(
            kind=made.kind,
            address=made.address,
            argv=made.argv,
            history_key=made.history_key,
            read_line=lambda line: LoadProgress("loading weights", 0.5, line),
        )

    async def scenario() -> None:
        history = History()
        history.record("scripted", 100.0)
        engine = Watched(launch, history=history, start_timeout_s=1.0, backoff=Backoff(attempts=1))
        engine.supervisor.start()
        await engine.until(lambda: engine.supervisor.address is not None)
        eta_s = engine.supervisor.eta_s(time.monotonic())
        assert eta_s is not None
        assert 98 < eta_s <= 100
        await engine.until(lambda: engine.supervisor.status()["load"] is not None)
        load = engine.supervisor.status()["load"]
        assert load == {"phase": "loading weights", "fraction": 0.5, "line": "weights 50%"}
        await engine.until_state(State.FAILED)
        assert engine.supervisor.status()["load"] is None
        await engine.supervisor.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_twenty_restarts_leak_no_descriptor_no_task_and_no_zombie(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """With uvloop, which Headgate runs on, two pipes of every engine stayed open."""

    async def scenario() -> None:
        engine = Watched(Scripted({}))
        engine.supervisor.start()
        await engine.until_state(State.READY)
        before = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for turn in range(20):
            engine.supervisor.restart()
            await engine.until_state(State.READY, starts=turn + 2)
        assert (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())) == before
        await engine.supervisor.stop()
        assert children() == []

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())
