"""The machine around the gateway: Python, the system, memory, open files, shared memory, the cache folder.

Each look is a function of plain values that ``look`` gathers, so that a container with no memory can be tested on a
machine that has plenty. It ends at findings; GPUs, engines and models have files of their own.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from headgate.relay import express
from headgate.workbench.check.finding import GIB, MIB, Finding, fail, ok, size, some, warn

FILES_WANTED = 65536
"""Room for 10,000 clients, each with a connection of its own to the engine, and for a burst on top."""

_FILES_ELSEWHERE = 200
_MEMORY_WANTED = GIB // 2
_MEMORY_WANTED_VLLM = 4 * GIB
_SHM = Path("/dev/shm")  # noqa: S108 - looked at, never written
_SHM_WANTED = GIB


def look(cache_dir: Path, environ: Mapping[str, str], *, with_vllm: bool, gpus_used: int) -> Iterator[Finding]:
    """Everything here, on this machine."""
    version = sys.version_info
    yield python((version.major, version.minor, version.micro), sys.executable)
    yield system(platform.system(), platform.release(), platform.machine())
    available = available_memory(_read("/proc/meminfo"), _read("/sys/fs/cgroup/memory.max"), _cgroup_used())
    yield memory(available, with_vllm=with_vllm)
    if sys.platform != "win32":
        import resource

        yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    if with_vllm and _SHM.is_dir():
        yield shared_memory(shutil.disk_usage(_SHM).total, gpus_used, container=in_container(environ))
    yield cache_folder(cache_dir)


def python(version: tuple[int, int, int], executable: str) -> Finding:
    """The Python that the gateway runs on; the engine may have another."""
    name = f"{version[0]}.{version[1]}.{version[2]} at {executable}"
    if version < (3, 11):
        return fail("python", name, "Headgate needs Python 3.11 or newer.")
    return ok("python", name)


def system(kind: str, release: str, machine: str) -> Finding:
    """The operating system."""
    name = f"{kind} {release} on {machine}"
    if kind == "Linux":
        return ok("system", name)
    if kind == "Darwin":
        return warn("system", f"macOS ({name})", "Good for trying things out; put a team behind it on Linux.")
    return fail("system", name, "Headgate runs on Linux; on Windows take WSL 2.")


def available_memory(meminfo: str | None, cgroup_max: str | None, cgroup_used: int | None) -> int | None:
    """Bytes of RAM that can still be had, within a container's limit; None where nobody says."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo or "", re.MULTILINE)
    limits = [int(found[1]) * 1024] if found else []
    if cgroup_max is not None and cgroup_max.strip().isdecimal():
        limits.append(max(0, int(cgroup_max) - (cgroup_used or 0)))
    return min(limits, default=None)


def memory(available: int | None, *, with_vllm: bool) -> Finding:
    """RAM, not the GPU's."""
    if available is None:
        return ok("memory", "how much RAM is free can't be read here")
    wanted, who = (_MEMORY_WANTED_VLLM, "vLLM's processes") if with_vllm else (_MEMORY_WANTED, "the gateway")
    said = f"{size(available)} of RAM available"
    if available < wanted:
        return warn("memory", f"{said}; {who} want {size(wanted)}", "End something, or raise the container's limit.")
    return ok("memory", said)


def open_files(hard: int, a_client: int = 2 + express.FILES) -> Finding:
    """The limit of open files, to which ``serve`` raises its own.

    Args:
        a_client: how many one takes: its own, one to the engine, and in the compiled gateway a third.
    """
    unlimited = hard < 0  # RLIM_INFINITY
    if unlimited or hard >= FILES_WANTED:
        return ok("files", "no limit of open files" if unlimited else f"{hard:,} open files allowed")
    clients = max(0, hard - _FILES_ELSEWHERE) // a_client
    return warn(
        "files",
        f"{hard:,} open files allowed: enough for about {some(clients)} clients at once",
        f"For 10,000: LimitNOFILE={FILES_WANTED} in a systemd unit, --ulimit nofile={FILES_WANTED} in Docker.",
    )


def shared_memory(total: int, gpus_used: int, *, container: bool) -> Finding:
    """``/dev/shm``, through which vLLM's workers talk to each other; containers get 64 MiB by default."""
    said = f"{size(total)} of /dev/shm"
    if total >= _SHM_WANTED or not container:
        return ok("shm", said)
    mend = "Start the container with --shm-size=2g or --ipc=host (Kubernetes: an emptyDir with medium: Memory)."
    if gpus_used > 1 and total <= 64 * MIB:
        return fail("shm", f"{said} is too little for {gpus_used} GPUs that work together", mend)
    return warn("shm", f"{said}, in a container: vLLM may need more", mend)


def in_container(environ: Mapping[str, str]) -> bool:
    """Whether this process lives in a container, as far as one can tell."""
    return "KUBERNETES_SERVICE_HOST" in environ or any(Path(p).exists() for p in ("/.dockerenv", "/run/.containerenv"))


def cache_folder(folder: Path) -> Finding:
    """Where start-up times are remembered, from which the ETA of a start comes."""
    there = existing(folder)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ok("cache", f"{folder} can be written")
    return warn(
        "cache",
        f"{folder} can't be written: start-up times are not remembered, so a loading engine has no ETA",
        "Name another folder with HEADGATE_CACHE_DIR.",
    )


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _cgroup_used() -> int | None:
    used = _read("/sys/fs/cgroup/memory.current")
    return int(used) if used is not None and used.strip().isdecimal() else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("ascii")
    except (OSError, ValueError):
        return None
