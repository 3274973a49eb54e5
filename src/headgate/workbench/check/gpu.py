"""The GPUs: which there are, how much of each is free, who has the rest, and whether vLLM could start on them.

Asked of ``nvidia-smi``, where the gateway asks NVML (``telemetry.nvml``): a process of its own can be given up on when
the driver hangs, which is what one looks for here, and it names the processes that have the memory. Which GPUs are the
engine's is the same rule for both. It ends at ``Gpus`` and findings; what a model needs is ``fit``'s part.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headgate.telemetry.nvml import visible
from headgate.workbench.check.finding import MIB, Finding, fail, ok, size, warn

_TIMEOUT_S = 15.0  # without persistence mode the driver is loaded first
_OLDEST_DRIVER = 525  # the first that runs CUDA 12
_ELSEWHERE = (
    "`headgate serve` with no MODEL (simulated), or --engine-urls for an engine on another machine, works here."
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU; bytes are None where the driver doesn't say (unified memory, MIG)."""

    index: int
    uuid: str
    name: str
    total: int | None
    free: int | None
    driver: str


@dataclass(frozen=True, slots=True)
class Gpus:
    """What is here.

    Attributes:
        visible: the NVIDIA GPUs that an engine would see.
        users: by the UUID of a GPU, who has memory on it.
        slices: MIG slices that CUDA_VISIBLE_DEVICES names; they are not looked at any closer.
        hidden: how many more there are that CUDA_VISIBLE_DEVICES keeps from it.
        trouble: what ``nvidia-smi`` said instead of an answer.
        other: another maker's GPU, in words.
    """

    visible: tuple[Gpu, ...] = ()
    users: Mapping[str, tuple[str, ...]] | None = None
    slices: tuple[str, ...] = ()
    hidden: int = 0
    trouble: str | None = None
    other: str | None = None


def look(environ: Mapping[str, str]) -> Gpus:
    """Ask this machine."""
    command = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if command is None:
        return Gpus(other=_another_makers())
    said = _ask(command, "--query-gpu=index,uuid,name,memory.total,memory.free,driver_version")
    gpus = [gpu for line in said.splitlines() if (gpu := _gpu(line)) is not None]
    if not gpus:
        return Gpus(trouble=" ".join(said.split()) or "it says nothing")
    users: dict[str, tuple[str, ...]] = {}
    for line in _ask(command, "--query-compute-apps=gpu_uuid,pid,process_name,used_memory").splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) >= 4 and words[1].isdecimal():
            used = _mib(words[-1])
            name = Path(",".join(words[2:-1])).name
            users[words[0]] = (
                *users.get(words[0], ()),
                f"{name} (pid {words[1]}{f', {size(used)}' if used else ''})",
            )
    by_index = {gpu.index: gpu for gpu in gpus}
    names = visible(environ.get("CUDA_VISIBLE_DEVICES"), {gpu.index: gpu.uuid for gpu in gpus})
    seen = tuple(by_index[name] for name in names if isinstance(name, int))
    slices = tuple(name for name in names if isinstance(name, str))
    return Gpus(seen, users, slices, hidden=len(gpus) - len(seen))


def describe(gpus: Gpus, *, cpu_build: bool, wanted: int, share: float, least: int | None) -> Iterator[Finding]:
    """What vLLM would find.

    Args:
        gpus: what is here.
        cpu_build: vLLM's build is one for CPUs.
        wanted: how many GPUs it is to use together.
        share: of a GPU's memory that it takes for itself, and refuses to start without.
        least: bytes of each GPU that the model can't do without; None where that isn't known.
    """
    if cpu_build:
        yield ok("gpu", "none is used: this vLLM is built for CPUs")
        return
    if gpus.trouble is not None:
        yield fail("gpu", f"nvidia-smi fails: {gpus.trouble}", f"Mend the driver (often a reboot does). {_ELSEWHERE}")
        return
    if not gpus.visible:
        yield _none(gpus)
        return
    if len(gpus.visible) < wanted:
        yield fail("gpu", f"{len(gpus.visible)} visible, and ENGINE_ARGS ask for {wanted}", "Ask for fewer.")
    for gpu in gpus.visible[:wanted]:
        users = (gpus.users or {}).get(gpu.uuid, ())
        said = f"{_name(gpu)}; {', '.join(users) or 'nobody else'} on it"
        if gpu.total and gpu.free is not None and gpu.free < share * gpu.total:
            fits = int(gpu.free / gpu.total * 100 - 1) / 100
            enough = fits >= 0.1 and (least or 0) <= fits * gpu.total
            less = f", or add --gpu-memory-utilization {fits:.2f} to --engine-args" if enough else ""
            yield fail(
                "gpu",
                f"{said}. vLLM wants {share:.0%} of it, {size(share * gpu.total)}, and won't start with less free",
                f"End who has the rest{less}.",
            )
        elif _major(gpu.driver) < _OLDEST_DRIVER:
            yield warn(
                "gpu", said, f"Driver {gpu.driver} is too old for CUDA 12, which vLLM needs: install a newer one."
            )
        else:
            yield ok("gpu", said)


def mention(gpus: Gpus) -> Finding:
    """What is here, for a gateway whose engine needs none of it."""
    if gpus.visible:
        return ok("gpu", f"not needed for this engine; {', '.join(_name(gpu) for gpu in gpus.visible)}")
    return ok("gpu", "none, and none is needed for this engine")


def _none(gpus: Gpus) -> Finding:
    if gpus.slices:
        return warn("gpu", f"a MIG slice, {', '.join(gpus.slices)}", "Its memory isn't looked at: see nvidia-smi.")
    if gpus.hidden:
        return fail("gpu", f"CUDA_VISIBLE_DEVICES hides all {gpus.hidden}", "Unset it, or name one of them in it.")
    if gpus.other is not None:
        return warn("gpu", gpus.other, f"It needs a vLLM built for it. {_ELSEWHERE}")
    return fail("gpu", "none was found (there is no nvidia-smi on the path), and vLLM needs one", _ELSEWHERE)


def _name(gpu: Gpu) -> str:
    if gpu.total is None or gpu.free is None:
        return f"{gpu.index}: {gpu.name}, driver {gpu.driver}, memory not told by the driver"
    return f"{gpu.index}: {gpu.name}, {size(gpu.free)} of {size(gpu.total)} free, driver {gpu.driver}"


def _gpu(line: str) -> Gpu | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != 6 or not words[0].isdecimal():
        return None
    return Gpu(int(words[0]), words[1], words[2], _mib(words[3]), _mib(words[4]), words[5])


def _mib(word: str) -> int | None:
    """Bytes; None for ``[N/A]`` and its like."""
    return int(word) * MIB if word.isdecimal() else None


def _major(driver: str) -> float:
    first = driver.partition(".")[0]
    return int(first) if first.isdecimal() else float("inf")


def _ask(command: str, query: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - found on the operator's own path, and with no shell
            [command, query, "--format=csv,noheader,nounits"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return str(error)
    return done.stdout


def _another_makers() -> str | None:
    if Path("/dev/kfd").exists():
        return "an AMD GPU (/dev/kfd), which is not looked at any closer"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "an Apple GPU, which vLLM doesn't use by itself"
    return None
