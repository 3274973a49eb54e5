"""Each fault carried out: what is done, and what that excuses. Every one returns what a report should say of it.

A fault is over when what it did has been undone, or when the gateway has got over it: `/ready` says 200 again. That the
gateway got over it is not told to it; whether it did so well, the books say.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sys

from loadtest.chaos.books import Excuse
from loadtest.chaos.clients import Crowd
from loadtest.chaos.plan import Step
from loadtest.chaos.stage import MARK, Stage, StageError, children, get, parent

_HOG = """
import sys, time
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
held = bytearray(int(sys.argv[1]))
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    for at in range(0, len(held), 4096):
        held[at] = at & 255
"""
_ANSWERS = ("cut", "reset", "garbage", "garbage_head", "error", "error_first", "error_event")
_SLOWNESS = ("slow_head", "stall", "dribble", "giant", "crlf", "comment")


class Faults:
    """Carries faults out, one after the other."""

    def __init__(self, stage: Stage, crowd: Crowd, load: int) -> None:
        self._stage = stage
        self._crowd = crowd
        self._load = load
        """How many requests a fault that is made of requests takes."""

    async def carry_out(self, step: Step) -> str:
        dice = random.Random(step.draw)
        method = getattr(self, f"_{step.kind}")
        note: str = await method(dice)
        await self._stage.until_ready()
        return note

    # The engine.

    async def _api_kill(self, dice: random.Random) -> str:
        pid, _ = await self._stage.engine()
        os.kill(pid, signal.SIGKILL)
        return await self._new_engine(pid)

    async def _core_kill(self, dice: random.Random) -> str:
        pid, _ = await self._stage.engine()
        for core in children(pid):
            os.kill(core, signal.SIGKILL)
        return await self._new_engine(pid)

    async def _guard_kill(self, dice: random.Random) -> str:
        pid, _ = await self._stage.engine()
        os.kill(parent(pid), signal.SIGKILL)
        return await self._new_engine(pid)

    async def _engine_pause(self, dice: random.Random) -> str:
        pid, _ = await self._stage.engine()
        seconds = 0.2 + 1.3 * dice.random()
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        return f"for {seconds:.1f} s"

    async def _engine_freeze(self, dice: random.Random) -> str:
        pid, _ = await self._stage.engine()
        os.kill(pid, signal.SIGSTOP)
        return await self._new_engine(pid)

    async def _hang(self, dice: random.Random) -> str:
        pid, port = await self._stage.engine()
        await self._fault(port, [{"kind": "hang"}])
        return await self._new_engine(pid)

    async def _engine_restart(self, dice: random.Random) -> str:
        pid, _ = await self._stage.engine()
        await self._stage.restart_engine()
        return await self._new_engine(pid)

    async def _broken_answers(self, dice: random.Random) -> str:
        kinds = [dice.choice(_ANSWERS) for _ in range(12)]
        _, port = await self._stage.engine()
        # One after the other with some requests between: several at once on one engine would look like its death.
        faults = [
            {"kind": kind, "after_requests": (i + 1) * self._load // 16, "after_events": dice.randrange(3)}
            if kind not in ("garbage_head", "error")
            else {"kind": kind, "after_requests": (i + 1) * self._load // 16}
            for i, kind in enumerate(kinds)
        ]
        await self._fault(port, faults)
        await self._requests(self._load)
        return ", ".join(sorted(set(kinds)))

    async def _slow_network(self, dice: random.Random) -> str:
        _, port = await self._stage.engine()
        faults: list[dict[str, object]] = []
        for i in range(24):
            kind = _SLOWNESS[i % len(_SLOWNESS)]
            fault: dict[str, object] = {"kind": kind, "after_requests": i * self._load // 30}
            if kind in ("slow_head", "stall"):
                fault["seconds"] = round(dice.random(), 2)
            if kind in ("stall", "giant"):
                fault["after_events"] = dice.randrange(3)
            faults.append(fault)
        await self._fault(port, faults)
        self._crowd.mood = "slow"
        await self._requests(self._load // 4)
        self._crowd.mood = "calm"
        await self._requests(self._load)
        return f"{len(faults)} answers"

    # The clients.

    async def _client_storm(self, dice: random.Random) -> str:
        return await self._moody("storm", self._load * 2)

    async def _slow_clients(self, dice: random.Random) -> str:
        return await self._moody("slow", self._load // 2)

    async def _memory_pressure(self, dice: random.Random) -> str:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        size = min(512 << 20, available // 4)
        env = {**os.environ, MARK: self._stage.life}
        hog = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", _HOG, str(size), "3", env=env)
        try:
            await self._moody("big", self._load // 2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                hog.kill()
            await hog.wait()
        return f"{size >> 20} MiB beside {self._load // 2} requests, one in ten with up to 1.5 MiB of body"

    # The machine.

    async def _log_disk_full(self, dice: random.Random) -> str:
        crowd, stage = self._crowd, self._stage
        crowd.excused(Excuse.LINE_LOST)
        _, hard = resource.prlimit(stage.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(stage.pid, resource.RLIMIT_FSIZE, (stage.log_bytes() + dice.randrange(1000), hard))
        try:
            await self._requests(self._load)
        finally:
            if stage.lives:
                resource.prlimit(stage.pid, resource.RLIMIT_FSIZE, (hard, hard))
        await asyncio.sleep(0.1)  # what ended while it was full is written, or lost, by now
        crowd.unexcused(Excuse.LINE_LOST)
        return f"for {self._load} requests"

    async def _clock_jump(self, dice: random.Random) -> str:
        board = self._stage.board
        offsets = [dice.choice((-1, 1)) * dice.choice((2.0, 3600.0, 86400.0)) for _ in range(4)]
        for offset_s in (*offsets, 0.0):
            board.offset_s = offset_s
            await self._requests(self._load // 5)
        return ", ".join(f"{offset:+g} s" for offset in offsets)

    async def _gateway_pause(self, dice: random.Random) -> str:
        seconds = 0.2 + 0.8 * dice.random()
        self._stage.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._stage.signal(signal.SIGCONT)
        return f"for {seconds:.1f} s"

    async def _fd_exhaustion(self, dice: random.Random) -> str:
        crowd, stage = self._crowd, self._stage
        crowd.excused(Excuse.UNBEGUN)
        soft, hard = resource.prlimit(stage.pid, resource.RLIMIT_NOFILE)
        most = max(stage.files()) + 1
        resource.prlimit(stage.pid, resource.RLIMIT_NOFILE, (most, hard))
        crowd.mood = "storm"
        try:
            await self._requests(self._load, within_s=3.0)
        finally:
            crowd.mood = "calm"
            if stage.lives:
                resource.prlimit(stage.pid, resource.RLIMIT_NOFILE, (soft, hard))
        await self._stage.until_ready()
        await asyncio.sleep(0.5)  # who was let in at the door and put out again has noticed by now
        crowd.unexcused(Excuse.UNBEGUN)
        return f"at {most} files"

    # The gateway.

    async def _gateway_drain(self, dice: random.Random) -> str:
        return await self._next_gateway(Excuse.UNBEGUN, (signal.SIGTERM,), (0,))

    async def _gateway_second_signal(self, dice: random.Random) -> str:
        self._crowd.mood = "slow"  # so that there is something to wait for between the two
        await self._requests(self._load // 8, within_s=5.0)
        try:
            excuse = Excuse.CUT | Excuse.LINE_LOST  # a request that is still arriving has no line
            return await self._next_gateway(excuse, (signal.SIGTERM, signal.SIGTERM), (0, 3))
        finally:
            self._crowd.mood = "calm"

    async def _gateway_kill(self, dice: random.Random) -> str:
        excuse = Excuse.CUT | Excuse.LINE_LOST
        return await self._next_gateway(excuse, (signal.SIGKILL,), (-signal.SIGKILL,))

    # Their parts.

    async def _next_gateway(self, excuse: int, signals: tuple[signal.Signals, ...], exits: tuple[int, ...]) -> str:
        crowd, stage = self._crowd, self._stage
        crowd.excused(excuse)
        status = await stage.end(*signals, between_s=0.05)
        if status not in exits:
            raise StageError(f"exit status {status} after {[s.name for s in signals]}, not one of {exits}")
        await stage.start()
        crowd.hang_up()
        await asyncio.sleep(0.1)
        crowd.unexcused(excuse)
        return f"exit status {status}"

    async def _new_engine(self, pid: int) -> str:
        """Wait until another process is the engine."""
        began = asyncio.get_running_loop().time()
        while (await self._stage.engine())[0] == pid:
            await asyncio.sleep(0.05)
            if asyncio.get_running_loop().time() - began > 60:
                raise StageError(f"process {pid} is still the engine after 60 s")
        return f"another engine after {asyncio.get_running_loop().time() - began:.1f} s"

    async def _fault(self, port: int, faults: list[dict[str, object]]) -> None:
        status, body = await get(port, "/simulator/faults", method="POST", body=json.dumps(faults).encode())
        if status != 200:
            raise StageError(f"the engine took no faults: {status} {body!r}")

    async def _moody(self, mood: str, requests: int) -> str:
        self._crowd.mood = mood  # type: ignore[assignment]
        try:
            await self._requests(requests)
        finally:
            self._crowd.mood = "calm"
        return f"{requests} requests"

    async def _requests(self, count: int, within_s: float = 60.0) -> None:
        """Wait until so many more have been sent, or until no more may be."""
        until = self._crowd.sent + count
        limit = asyncio.get_running_loop().time() + within_s
        while self._crowd.sent < until and self._crowd.can_send:
            if asyncio.get_running_loop().time() > limit:
                return
            await asyncio.sleep(0.01)
