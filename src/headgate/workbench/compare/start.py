"""Starts what is compared and was not there: a gateway with its engine, or a simulated engine by itself.

Each in a process group of its own, with an environment in which no setting of this shell is, in a folder with no
``headgate.toml``: so a comparison compares what it names and nothing else. Whatever was started is stopped.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx

from headgate.settings import BARE, PREFIX
from headgate.workbench.compare.targets import Candidate

LISTENS_WITHIN_S = 30.0
_STOP_S = 15.0
_POLL_S = 0.1


class NotStarted(Exception):
    """One line: what could not be started, and its last words."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is behind the gateways: an address, or the simulated engine with these arguments."""

    url: str | None = None
    args: str = ""
    key: str | None = None


@contextmanager
def running(candidate: Candidate, engine: Engine, ready_within_s: float) -> Iterator[str]:
    """The URL of a target, running and ready for as long as this is open.

    Raises:
        NotStarted: it can't be.
    """
    if candidate.url is not None:
        yield candidate.url
    elif candidate.direct and engine.url is not None:
        yield engine.url
    else:
        with _process(candidate, engine) as (process, log, url):
            path = "/v1/models" if candidate.direct else "/ready"
            _until_ready(f"{url}{path}", process, log, ready_within_s)
            yield url


def command(candidate: Candidate, engine: Engine) -> tuple[list[str], dict[str, str]]:
    """How a target is started: its command, and what is added to the environment (keys are not for command lines)."""
    if candidate.direct:
        return [sys.executable, "-m", "headgate.simulator", "--port", "0", *shlex.split(engine.args)], {}
    settings = dict(candidate.settings)
    model = settings.pop("model", None)
    if engine.url is not None:
        settings |= {"engine": "remote", "engine_urls": engine.url}
    elif engine.args:
        settings.setdefault("engine_args", engine.args)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if not name.endswith("_key")]
    env = {f"{PREFIX}{name.upper()}": value for name, value in settings.items() if name.endswith("_key")}
    if engine.key:
        env[f"{PREFIX}ENGINE_API_KEY"] = engine.key
    return [sys.executable, "-m", "headgate", "serve", *([model] if model else []), "--port=0", *flags], env


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """This one without the gateway's settings."""
    bare = {name.upper() for name in BARE}
    return {name: value for name, value in environ.items() if not name.startswith(PREFIX) and name not in bare}


@contextmanager
def _process(candidate: Candidate, engine: Engine) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    argv, env = command(candidate, engine)
    with tempfile.TemporaryDirectory(prefix="headgate-compare-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(  # noqa: S603  this Python, with arguments of our own
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=folder,
                env={**environment(os.environ), **env},
                start_new_session=True,
            )
        try:
            yield process, log, _listens(process, log, argv)
        finally:
            _stop(process)


def _listens(process: subprocess.Popen[str], log: Path, argv: Sequence[str]) -> str:
    """The URL in its first line."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if ready.select(LISTENS_WITHIN_S) else ""
    words = line.split()
    if not words or "listen" not in line:
        raise NotStarted(f"it did not start: {last_words(log) or ' '.join(argv)}")
    return words[-1] if "://" in words[-1] else f"http://{words[-1]}"


def _until_ready(url: str, process: subprocess.Popen[str], log: Path, within_s: float) -> None:
    give_up_at = monotonic() + within_s
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while monotonic() < give_up_at:
            if process.poll() is not None:
                raise NotStarted(f"it ended with status {process.returncode}: {last_words(log)}")
            try:
                # A /v1/models that wants a key is there all the same.
                if client.get(url).status_code in (200, 401):
                    return
            except httpx.HTTPError:
                pass
            sleep(_POLL_S)
    raise NotStarted(f"it was not ready within {within_s:g} s: {last_words(log)}")


def _stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM drains it, a second one ends it at once."""
    for _ in range(2):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                continue
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def last_words(log: Path) -> str:
    """The last line or so that it wrote."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " ".join(lines[-2:])[-300:]
