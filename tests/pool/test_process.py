"""One process and its tree: when it is over, nothing is left, whichever of them was killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from headgate.pool.launchers import free_port, guard
from headgate.pool.launchers.guard import KEEP
from headgate.pool.process import GUARD, EngineProcess, Exit
from tests.pool.engines import DEADLINE_S, Family, alive, command, gone, parent_of

if TYPE_CHECKING:
    from pathlib import Path

HELPERS = ["group", "own group", "own session", "bare session", "parent"]
"""All the ways in which a child can try to outlive its parent."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs subreapers and /proc")


async def started(tmp_path: Path, **plan: object) -> tuple[EngineProcess, list[int]]:
    family = Family(tmp_path)
    process = await EngineProcess.start(command(free_port(), family=family.path, **plan), {})
    return process, await family.pids()


def test_nothing_is_left_when_the_main_process_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        process, pids = await started(tmp_path, helpers=HELPERS)
        assert len(alive(pids)) == len(HELPERS) + 2
        os.kill(pids[0], signal.SIGKILL)
        ended = await process.wait()
        assert alive(pids) == []
        assert ended == Exit(None, signal.SIGKILL, killed=len(HELPERS) + 1)
        assert str(ended) == "killed by SIGKILL, 6 left behind and killed"

    asyncio.run(scenario())


def test_nothing_is_left_when_the_guard_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        process, pids = await started(tmp_path, helpers=["group", "own group", "own session"])
        os.kill(parent_of(pids[0]), signal.SIGKILL)
        ended = await process.wait()
        assert alive(pids) == []
        assert not ended.guarded

    asyncio.run(scenario())


def test_nothing_is_left_when_the_engine_ends_well_but_its_helpers_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        process, pids = await started(tmp_path, helpers=HELPERS, exits=0)
        ended = await process.wait()
        assert alive(pids) == []
        assert (ended.code, ended.signal) == (0, None)

    asyncio.run(scenario())


def test_an_engine_that_heeds_sigterm_is_not_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        process, pids = await started(tmp_path)
        ended = await process.terminate(DEADLINE_S)
        assert ended == Exit(None, signal.SIGTERM)
        assert alive(pids) == []

    asyncio.run(scenario())


def test_an_engine_that_ignores_sigterm_is_killed_with_all_its_helpers_after_the_grace(tmp_path: Path) -> None:
    async def scenario() -> None:
        process, pids = await started(tmp_path, ignores_sigterm=True, helpers=HELPERS)
        ended = await process.terminate(0.05)
        assert ended.signal == signal.SIGKILL
        assert alive(pids) == []

    asyncio.run(scenario())


def test_a_guard_that_is_stopped_does_not_keep_the_engine_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headgate.pool.process.GUARD_KILL_S", 0.1)

    async def scenario() -> None:
        process, pids = await started(tmp_path, helpers=["own session"])
        os.kill(parent_of(pids[0]), signal.SIGSTOP)
        ended = await process.kill()
        assert not ended.guarded
        assert alive(pids) == []

    asyncio.run(scenario())


def test_a_command_that_does_not_exist_is_an_exit_that_says_so() -> None:
    async def scenario() -> None:
        process = await EngineProcess.start(["/no/such/engine"], {})
        assert (await process.wait()).code == 127
        assert process.lines == ["cannot start /no/such/engine: No such file or directory"]

    asyncio.run(scenario())


def test_the_last_words_are_kept_and_told() -> None:
    async def scenario() -> None:
        told: list[str] = []
        code = "import sys; print('one'); print('two', file=sys.stderr); sys.stderr.write('last words')"
        process = await EngineProcess.start([sys.executable, "-ISuc", code], {}, told.append)
        await process.wait()
        assert process.lines == told == ["one", "two", "last words"]

    asyncio.run(scenario())


def test_the_engine_inherits_no_pipe_no_ignored_signal_and_no_terminal() -> None:
    async def scenario() -> None:
        code = """if True:
            import os, signal
            print(sorted(os.readlink(f'/proc/self/fd/{fd}').split(':')[0] for fd in os.listdir('/proc/self/fd')[:3]))
            print([name for name in os.listdir('/proc/self/fd') if int(name) > 3])
            print([int(line.split()[1], 16) & ((1 << 15) | 0b110) for line in open('/proc/self/status')
                   if line.startswith(('SigIgn', 'SigBlk'))])
            print(os.getsid(0) == os.getpid() == os.getpgid(0), os.environ['ADDED'])
        """
        process = await EngineProcess.start([sys.executable, "-ISuc", code], {"ADDED": "yes"})
        await process.wait()
        assert process.lines == ["['/dev/null', 'pipe', 'pipe']", "[]", "[0, 0]", "True yes"]

    asyncio.run(scenario())


def test_the_engine_inherits_none_of_the_gateways_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys among them: an engine runs code of others, and /proc shows its environment."""
    monkeypatch.setenv("HEADGATE_ADMIN_KEY", "secret")
    monkeypatch.setenv("OTHER", "kept")

    async def scenario() -> None:
        code = "import os; print(*sorted(n for n in os.environ if n.startswith(('HEADGATE', 'OTHER', 'ADDED'))))"
        process = await EngineProcess.start([sys.executable, "-ISuc", code], {"ADDED": "yes"})
        await process.wait()
        assert process.lines == ["ADDED HEADGATE_ENGINE_MARK OTHER"]

    asyncio.run(scenario())


def test_a_ctrl_c_or_sigterm_for_everybody_does_not_reach_past_the_guard(tmp_path: Path) -> None:
    async def scenario() -> None:
        process, pids = await started(tmp_path)
        guard = parent_of(pids[0])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guard, number)
        assert os.getpgid(guard) != os.getpgid(0)
        assert (await process.terminate(DEADLINE_S)).signal == signal.SIGTERM
        assert alive(pids) == []

    asyncio.run(scenario())


def test_the_guard_kills_all_when_its_pipe_ends(tmp_path: Path) -> None:
    family = Family(tmp_path)
    argv = command(free_port(), family=family.path, helpers=HELPERS, ignores_sigterm=True)
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), "--", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with guard:
        pids = asyncio.run(family.pids())
        assert guard.stdin is not None
        guard.stdin.close()
        assert guard.wait(DEADLINE_S) == 0
        assert gone(pids, 0)


def test_a_guard_that_could_write_nothing_down_leaves_what_is_written_there_later(tmp_path: Path) -> None:
    """The next gateway's engine, whose guard it was, could be found by nobody then, and held its GPU for good."""
    record, in_the_way = tmp_path / "engine.json", tmp_path / "engine.sock"
    in_the_way.mkdir()
    plan = json.dumps({"record": str(record), "socket": str(in_the_way), "told": {}})
    argv = [sys.executable, "-I", "-S", str(GUARD), "--", "sleep", "3600"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {KEEP: plan}, text=True
    ) as guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        assert json.loads(guard.stdout.readline())["unkept"]
        record.write_text("the next one's")
        guard.stdin.close()
        assert guard.wait(DEADLINE_S) == 0
    assert record.read_text() == "the next one's"


def test_a_sigterm_in_the_moment_of_the_start_is_not_lost() -> None:
    async def scenario() -> None:
        for _ in range(5):
            process = await EngineProcess.start([sys.executable, "-ISc", "import signal; signal.pause()"], {})
            # The command waits in the pipe, so the guard sends the signal as soon as there is a process at all.
            ended = await asyncio.wait_for(process.terminate(3600), DEADLINE_S)
            assert ended.signal == signal.SIGTERM

    asyncio.run(scenario())


def test_what_has_ended_and_is_not_buried_is_no_process() -> None:
    """A kept engine's guard that had been killed was believed to live until its parent looked: nothing was kept."""
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        guard.started(ended.pid)
    ended.wait()
    assert guard.started(os.getpid()) > 0
