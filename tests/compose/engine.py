"""A Docker engine of the tests' own: its data, its socket and its end are theirs, and no other Docker is touched.

It needs root, and Debian's docker.io, runc and docker-compose (``sh tests/tools.sh docker`` gets them). It changes no
firewall rules, so containers reach each other and this machine reaches their published ports, but they reach nothing
outside. Its images and the layers of builds are kept in ``.tools/docker``; all else is in a folder that goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

START_S = 60.0
STOP_S = 60.0
DATA = Path(__file__).parents[2] / ".tools" / "docker" / "data"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
NEEDED = ("dockerd", "docker", "runc", "containerd", "docker-compose", "debootstrap")


class NoEngine(Exception):
    """No Docker engine can be started here; why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the Docker commands mean this engine."""
        theirs = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))}
        return theirs | {
            "PATH": PATH,
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder),
        }

    def docker(
        self, *arguments: str, timeout_s: float = 120, input_: bytes | None = None, stdin: IO[bytes] | None = None
    ) -> str:
        """What `docker …` prints.

        Raises:
            AssertionError: it failed, with what it said.
        """
        return run([_client(), *arguments], self.env, timeout_s=timeout_s, input_=input_, stdin=stdin)


def run(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout_s: float = 120,
    input_: bytes | None = None,
    stdin: IO[bytes] | None = None,
    cwd: Path | None = None,
    status: int | Sequence[int] = 0,
) -> str:
    """The output of a command that has to end with a certain status, or one of several."""
    given: dict[str, Any] = {"input": input_} if input_ is not None else {"stdin": stdin or subprocess.DEVNULL}
    ended = subprocess.run(
        command,
        env=dict(env),
        cwd=cwd,
        **given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )
    output: str = ended.stdout.decode(errors="replace")
    statuses = (status,) if isinstance(status, int) else status
    assert ended.returncode in statuses, f"{' '.join(command)} ended with {ended.returncode}:\n{output[-4000:]}"
    return output


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """An engine, for as long as the block runs.

    Raises:
        NoEngine: none can be started here.
    """
    if os.geteuid() != 0:
        raise NoEngine("a Docker engine is started by root alone")
    if missing := [name for name in NEEDED if shutil.which(name, path=PATH) is None]:
        raise NoEngine(f"not installed: {', '.join(missing)} (sh tests/tools.sh docker)")
    folder = Path(tempfile.mkdtemp(prefix="headgate-docker-"))  # short, as a socket's path has to be
    log = folder / "log"
    DATA.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as output, (DATA.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one engine at a time has the data
            process = subprocess.Popen(_command(folder), stdout=output, stderr=output, env=_with_gpu_hook(folder))
            try:
                _wait(process, Engine(folder), log)
                yield Engine(folder)
            finally:
                _stop(process, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _client() -> str:
    # Debian's own beside its engine; another one found first may be of another age.
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"


def _command(folder: Path) -> list[str]:
    own = [f"--data-root={DATA}", f"--exec-root={folder}/exec", f"--pidfile={folder}/docker.pid"]
    own += [f"--host=unix://{folder}/docker.sock", f"--config-file={folder}/none.json"]
    # Where a containerd runs already, dockerd takes that one: with names of our own in it.
    own += ["--containerd-namespace=headgate-test", "--containerd-plugins-namespace=headgate-test-plugins"]
    (folder / "none.json").write_text("{}")
    quiet = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
    return ["dockerd", *own, *quiet, "--default-ulimit=nofile=20000:20000"]


def _with_gpu_hook(folder: Path) -> dict[str, str]:
    """The engine takes reservations of GPUs where NVIDIA's hook is on its path; this one mounts nothing."""
    hook = folder / "bin" / "nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    return dict(os.environ) | {"PATH": f"{hook.parent}:{PATH}"}


def _wait(process: subprocess.Popen[bytes], started: Engine, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            started.docker("version", timeout_s=5)
            return
        time.sleep(0.2)  # a process outside this one: there is nothing to wait on but its socket
    raise NoEngine(f"dockerd does not start here: {log.read_text(errors='replace').splitlines()[-1:]}")


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(OSError, ValueError):  # it leaves with dockerd, unless that had to be killed
        os.kill(int((folder / "exec/containerd/containerd.pid").read_text()), 9)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):  # dockerd leaves its network namespaces behind
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=False)
