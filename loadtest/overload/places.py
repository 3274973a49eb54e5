"""Who stands in front of the engine, and how each is started: from a word on the command line to a command. Pure.

    direct              nobody
    auto                Headgate with nothing but the objectives
    slots=96            Headgate with so many slots
    compiled            as auto, with its road compiled
    haproxy=96x0.3      HAProxy: so many slots, and the longest wait in its line
    sglang-router       as it comes: everything goes to the engine at once
    sglang-router=96x1  with a cap and a longest wait

Every gateway is told the same objectives or the numbers that it knows instead, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from headgate.workbench.bench.slo import Good
from headgate.workbench.compare.start import environment
from loadtest.overhead.targets import compiled_version

HAPROXY = """\
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    maxconn 9000
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout queue {wait_ms}ms
    timeout http-keep-alive 60s
    option http-keep-alive
    option http-no-delay
    option abortonclose
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    default_backend engine
backend engine
    server e0 127.0.0.1:{engine_port} maxconn {slots}
"""

_WORD = re.compile(
    r"direct|auto|compiled|slots=[1-9]\d*|haproxy=[1-9]\d*x(?=.*[1-9])\d+(\.\d+)?|sglang-router(=[1-9]\d*x[1-9]\d*)?"
)
"""With a wait of 0 HAProxy's line has no end."""


class BadPlace(ValueError):
    """One line that says what is wrong."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where it is to stand, and what a good answer is there."""

    engine_port: int
    port: int
    spare_port: int
    folder: Path
    peers_env: Path
    compiled_env: Path
    good: Good


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start; no command for the engine by itself."""

    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    ready: str = "/health"


def launch(word: str, site: Site) -> Launch:
    """The command for one of the words above.

    Raises:
        BadPlace: it is none of them, or not installed.
    """
    check(word)
    name, _, said = word.partition("=")
    return _KINDS[name](said, site)


def check(word: str) -> None:
    """Whether it is one of the words above. Raises BadPlace."""
    if not _WORD.fullmatch(word):
        raise BadPlace(f"{word!r} is none of direct, auto, compiled, slots=N, haproxy=NxS, sglang-router[=NxS]")


def _direct(said: str, site: Site) -> Launch:
    return Launch()


def _auto(said: str, site: Site) -> Launch:
    return _headgate({}, site)


def _slots(said: str, site: Site) -> Launch:
    return _headgate({"HEADGATE_MAX_ACTIVE": said}, site)


def _compiled(said: str, site: Site) -> Launch:
    python = site.compiled_env / "bin" / "python"
    if not compiled_version(python):
        raise BadPlace(f"no compiled headgate in {site.compiled_env}: make compiled-env")
    launch = _headgate({}, site, str(python))
    launch.env.pop("PYTHONPATH", None)
    return launch


def _headgate(settings: dict[str, str], site: Site, python: str = sys.executable) -> Launch:
    good = site.good
    objectives = {
        "HEADGATE_SLO_TTFT_S": good.ttft_s,
        "HEADGATE_SLO_ITL_MS": None if good.inter_token_s is None else 1000 * good.inter_token_s,
        "HEADGATE_SLO_LATENCY_S": good.latency_s,
    }
    env = environment(os.environ) | settings
    env |= {name: f"{value:g}" for name, value in objectives.items() if value is not None}
    env |= {
        "HEADGATE_ENGINE": "remote",
        "HEADGATE_ENGINE_URLS": f"http://127.0.0.1:{site.engine_port}",
        "HEADGATE_PORT": str(site.port),
    }
    return Launch((python, "-m", "headgate", "serve"), env, "/ready")


def _haproxy(said: str, site: Site) -> Launch:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise BadPlace("no haproxy on this machine: apt install haproxy")
    slots, wait_s = said.split("x")
    config = site.folder / f"haproxy-{site.port}.cfg"
    made = HAPROXY.format(
        port=site.port, engine_port=site.engine_port, slots=slots, wait_ms=max(1, round(1000 * float(wait_s)))
    )
    config.write_text(made)
    return Launch((program, "-db", "-f", str(config)))


def _sglang_router(said: str, site: Site) -> Launch:
    program = site.peers_env / "bin" / "sglang-router"
    if not program.exists():
        raise BadPlace(f"no sglang-router in {site.peers_env}: see loadtest/README.md")
    argv = [
        *(str(program), "launch", f"--worker-urls=http://127.0.0.1:{site.engine_port}", "--policy=round_robin"),
        *("--host=127.0.0.1", f"--port={site.port}"),
        *("--prometheus-host=127.0.0.1", f"--prometheus-port={site.spare_port}", "--worker-startup-check-interval=1"),
    ]
    if said:
        slots, wait_s = said.split("x")
        argv += [f"--max-concurrent-requests={slots}", f"--queue-timeout-secs={wait_s}"]
    return Launch(tuple(argv), dict(os.environ))


_KINDS: dict[str, Callable[[str, Site], Launch]] = {
    "direct": _direct,
    "auto": _auto,
    "compiled": _compiled,
    "slots": _slots,
    "haproxy": _haproxy,
    "sglang-router": _sglang_router,
}
