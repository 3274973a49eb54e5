"""What is left of an engine whose guard was killed: found, killed, and seen to be gone.

Alive, the guard does this itself and better. Without it the engine's orphans have another parent, so they are
known by what they inherited: the session that the guard made, and a mark in their environment. A process that
left the session *and* overwrote its environment is missed. On systems without ``/proc`` only the process
group is killed. It ends when nothing more is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

MARK = "HEADGATE_ENGINE_MARK"
TRACKER = b"multiprocessing.resource_tracker"
TRACKER_GRACE_S = 2.0
"""Python's resource trackers remove the shared memory of those who were killed, once they are alone."""
_AGAIN_S = 0.02


async def kill_remains(session: int | None, mark: str) -> int:
    """Kill all that belongs to a session or carries a mark, until nothing does; how many there were."""
    killed: set[int] = set()
    trackers_left_s = TRACKER_GRACE_S
    while found := await asyncio.to_thread(_find, session, mark):
        doomed = {pid for pid in found if not _is_tracker(pid)}
        if not doomed:
            trackers_left_s -= _AGAIN_S
            doomed = found if trackers_left_s <= 0 else set()
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= doomed
        await asyncio.sleep(_AGAIN_S)  # they are no children of ours, so nobody tells us when they are gone
    return len(killed)


def _is_tracker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return TRACKER in file.read()
    except OSError:
        return False  # it has gone meanwhile


def _find(session: int | None, mark: str) -> set[int]:
    if sys.platform != "linux":
        if session is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(session, signal.SIGKILL)
        return set()
    wanted = f"{MARK}={mark}".encode()
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, _, group, its_session = file.read().rpartition(b")")[2].split()[:4]
            if state in (b"Z", b"X"):
                continue
            if session is not None and session in (int(group), int(its_session)):
                found.add(int(name))
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.add(int(name))
        except (OSError, ValueError):
            continue  # it has gone meanwhile, or is somebody else's
    return found - {os.getpid()}
