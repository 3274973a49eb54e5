"""The process table and shared memory, read from outside, and the one way to wait for what they show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SHARED = "/dev/shm/"
LOOKS_EVERY_S = 0.05


def wait_until(look: Callable[[], T | None], what: str, within_s: float = 30.0) -> T:
    """What ``look`` gives, as soon as that is true. Only this and the next pass time: vLLM can only be asked again."""
    deadline_s = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what} (seen: {seen!r})"
        time.sleep(LOOKS_EVERY_S)
    return seen


async def wait_in_loop(look: Callable[[], T | None], what: str, within_s: float = 30.0) -> T:
    """Likewise beside the tasks of this loop, without a thread, which on two cores would not run beside vLLM's."""
    deadline_s = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what} (seen: {seen!r})"
        await asyncio.sleep(LOOKS_EVERY_S)
    return seen


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the process table. ``name`` is the kernel's, cut at 15 characters."""

    pid: int
    parent: int
    session: int
    name: str


def processes() -> list[Process]:
    """All that are alive; those that only wait to be buried are not."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            before, _, after = (folder / "stat").read_text(errors="replace").rpartition(")")
        except OSError:
            continue  # it has ended meanwhile
        state, parent, _, session, *_ = after.split()
        if state not in "ZX":
            found.append(Process(int(folder.name), int(parent), int(session), before.partition("(")[2]))
    return found


def wait_freed(shared: set[Path]) -> None:
    """Until none of these files in shared memory is left: vLLM's resource tracker removes them, if it is let live."""
    wait_until(lambda: not any(path.exists() for path in shared), f"of {len(shared)} in /dev/shm none is left", 10)


def environment(pid: int) -> list[bytes]:
    """What a process was started with, as the kernel still has it."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended, or is somebody else's


def shared_memory(pid: int) -> set[Path]:
    """The files in shared memory that a process has mapped and that still have a name."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return set()  # it has ended meanwhile
    found = {Path(line[line.index(SHARED) :]) for line in maps.splitlines() if SHARED in line}
    return {path for path in found if path.exists()}
