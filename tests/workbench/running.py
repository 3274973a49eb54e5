"""What the workbench is tried on: a real gateway, commands of this Python, tools that a test makes up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


def environment(**more: str) -> dict[str, str]:
    """An environment with nothing in it that would set the gateway or the hub up."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | more


@contextmanager
def gateway(folder: Path, *flags: str) -> Iterator[str]:
    """A gateway on a free port, by its URL, once it listens; ``folder`` is its working folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headgate", "serve", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=environment(HEADGATE_CACHE_DIR=str(folder / "cache")),
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert " listens on http://" in first, first
        yield first.split()[-1]
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str


def run_python(code: str, folder: Path, env: Mapping[str, str], *args: str) -> Ran:
    """Run a line of Python in a process of its own, which exits with what it says."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        cwd=folder,
        env=dict(env),
        timeout=30,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def script(folder: Path, name: str, text: str) -> Path:
    """An executable of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def nvidia_smi(folder: Path, gpus: str, users: str = "") -> Path:
    """A folder for the path in which ``nvidia-smi`` tells of these GPUs and of who is on them, as CSV."""
    script(folder, "nvidia-smi", f"case $1 in *query-gpu*) echo '{gpus}';; *query-compute-apps*) echo '{users}';; esac")
    return folder
