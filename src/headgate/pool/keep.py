"""An engine that outlives its gateway: written down, found again, taken over, or stopped.

The engine's guard keeps it (``launchers.guard``). It writes a record into the cache folder, mode 0600, when the engine
starts, and removes it when the engine is gone. A record is believed where the machine has not been booted since and
guard and engine are the very processes that it names, by number and start time; a port is never a proof. The engine is
taken over where it was started with the arguments that would be used now. Else it is stopped, and a new one started.
It ends at a running ``EngineProcess``; whether that engine is well is found out as of any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from headgate.pool.launchers import KEY_VARIABLE, Address
from headgate.pool.launchers.guard import KEEP, started
from headgate.pool.process import EngineProcess
from headgate.pool.remains import kill_remains

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from headgate.pool.launchers import Launch

log = logging.getLogger(__name__)

CONNECT_S = 5.0
AGAIN_S = 0.05


class InUse(Exception):
    """Another gateway has the engine, or its guard doesn't answer."""


READ_BY_ENGINES = ("VLLM_", "CUDA_", "HF_", "NVIDIA_", "NCCL_", "TORCH", "OMP_", "HIP_", "ROCR_")
"""What a variable's name begins with that makes another engine of the same command."""


class _Told(msgspec.Struct):
    port: int
    fingerprint: str
    mark: str
    names: list[str]
    api_key: str | None = None


class Record(msgspec.Struct):
    """What a guard wrote down. Processes are a number and a start time in clock ticks."""

    boot_id: str
    guard: tuple[int, int]
    engine: tuple[int, int]
    told: _Told

    def is_true(self) -> bool:
        """Whether both processes are still the ones that were meant."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                if file.read().strip() != self.boot_id:
                    return False
            engine, began = self.engine
            # The engine leads a group of its own from its first moment on.
            return all(started(pid) == at for pid, at in (self.guard, (engine, began))) and os.getpgid(engine) == engine
        except (OSError, ValueError, IndexError):
            return False


class Keep:
    """The one engine of a name, of the gateway on one port.

    Args:
        folder: where the record and the guard's socket are.
        name: of the files, without an ending.
        wanted: whether the engine is to outlive this gateway; if not, one that was left behind is stopped.
    """

    def __init__(self, folder: Path, name: str, *, wanted: bool) -> None:
        self._wanted = wanted
        self._is_taken = False  # the name, by an engine that can't be reached
        self._leaving: EngineProcess | None = None
        self._hurried = False
        self._record = folder / f"{name}.json"
        self._socket = folder / f"{name}.sock"

    def plan(self, launch: Launch) -> Callable[[str], Mapping[str, str]]:
        """What the guard's environment needs for this launch."""

        def env(mark: str) -> Mapping[str, str]:
            if not self._wanted or self._is_taken or sys.platform != "linux":
                return {}
            told = _Told(launch.address.port, fingerprint(launch), mark, list(launch.model_names), launch.api_key)
            plan = {"record": str(self._record), "socket": str(self._socket), "told": msgspec.to_builtins(told)}
            return {KEEP: json.dumps(plan)}

        return env

    async def rejoin(self, launch: Launch, on_line: Callable[[str], None]) -> tuple[EngineProcess, Launch] | None:
        """The engine that was left behind, and the launch that it is, where it is what this launch would start."""
        record = await self._read()
        self._is_taken = False
        if record is None:
            return None
        try:
            process = await self._take_over(record, on_line)
        except InUse as error:
            self._is_taken = await self._read() is not None  # it may have ended just now
            if self._is_taken:
                log.warning("%s", error)
                if self._wanted:
                    # Written down as well, ours would take that one's place, and nobody could ever end it.
                    log.warning("the engine that starts now is not kept: another gateway on this port may have one")
            return None
        told = record.told
        if not self._wanted or told.fingerprint != fingerprint(launch):
            why = "ENGINE_KEEP is off now" if not self._wanted else "it was started with other arguments"
            log.warning("the engine that was left running (process %d) is stopped: %s", record.engine[0], why)
            self._leaving = process
            log.info("it has stopped: %s", await process.terminate(0.0 if self._hurried else launch.stop_grace_s))
            self._leaving = None
            return None
        log.info("the engine that was left running is taken over: process %d, port %d", record.engine[0], told.port)
        address = Address(launch.address.host, told.port)
        return process, replace(launch, address=address, api_key=told.api_key)

    def hurry(self) -> None:
        """Kill the one that ``rejoin`` has to stop: nobody waits any more for it to leave by itself."""
        self._hurried = True
        if self._leaving is not None:
            self._leaving.hurry()

    async def stop(self, grace_s: float) -> str | None:
        """Stop what was left running; what became of it, None where there is nothing.

        Raises:
            InUse: a gateway has it.
        """
        record = await self._read()
        if record is None:
            return None
        process = await self._take_over(record, lambda _: None)
        return f"process {record.engine[0]}: {await process.terminate(grace_s)}"

    async def _read(self) -> Record | None:
        try:
            record = msgspec.json.decode(self._record.read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("the record of a kept engine can't be read (%s): %s", self._record, error)
            return None
        if not record.is_true():
            log.info("the engine of %s is gone", self._record)
            await kill_remains(None, record.told.mark)  # its guard was killed, perhaps, while nobody was there
            with contextlib.suppress(OSError):
                self._record.unlink()
            return None
        return record

    async def _take_over(self, record: Record, on_line: Callable[[str], None]) -> EngineProcess:
        folder = os.open(self._socket.parent, os.O_RDONLY)
        try:
            path = f"/proc/self/fd/{folder}/{self._socket.name}"  # a socket's path may have 107 bytes
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await _connected(path)
                try:
                    # A guard has one gateway: another's connection is accepted by the kernel, and by the guard once
                    # the first has gone.
                    first = await reader.readuntil()
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            why = str(error) or "it has a gateway"
            what = f"the guard of a kept engine (process {record.guard[0]}) doesn't take us: {why}"
            raise InUse(what) from None
        finally:
            os.close(folder)
        guard, told = _Rejoined(reader, writer, record.guard[0], first), record.told
        return EngineProcess(guard, told.mark, on_line, told.api_key, is_kept=True)


async def _connected(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a guard, which listens a moment after its gateway has ended."""
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except ConnectionRefusedError:
            await asyncio.sleep(AGAIN_S)


def fingerprint(launch: Launch) -> str:
    """Equal for launches that start the same: the command without its port, what engines read of the environment.

    The key counts where it was given. One that was made is another at each start, and the record has it.
    """
    port = str(launch.address.port)
    words = ["PORT" if word == port else word for word in launch.argv]
    env = {name: value for name, value in os.environ.items() if name.startswith(READ_BY_ENGINES)} | dict(launch.env)
    if launch.key_is_made:
        env[KEY_VARIABLE] = "(made)"
    return hashlib.sha256(json.dumps([words, sorted(env.items())]).encode()).hexdigest()


class _Rejoined:
    """A guard that is no child of ours, over its socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int, first: bytes) -> None:
        self.stdin = writer
        self.stdout = asyncio.StreamReader()
        self.stderr = asyncio.StreamReader()
        self.stdout.feed_data(first)
        self._pid = pid
        self._sorting = asyncio.create_task(self._sort(reader, self.stdout, self.stderr))

    async def wait(self) -> int:
        await asyncio.wait({self._sorting})
        return 0

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    @staticmethod
    async def _sort(reader: asyncio.StreamReader, reports: asyncio.StreamReader, output: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                told: dict[str, object] = json.loads(line)
                if "output" in told:
                    output.feed_data(str(told["output"]).encode("latin-1"))
                else:
                    reports.feed_data(line)
        except (OSError, ValueError):
            pass
        finally:
            reports.feed_eof()
            output.feed_eof()
