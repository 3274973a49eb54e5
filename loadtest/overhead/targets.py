"""How each target is started: a function for each, from a `Site` to a `Launch` or the reason of its absence.

All stand in front of the same engine, listen on loopback, write what they log to a file, and have their
limits on requests at once raised over what the load sends. Beyond that they run with the settings they come
with.

Nothing is started here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

MAX_AT_ONCE = 6144
# Headgate reads these from the environment beside HEADGATE_*: the caller's shell must not leak in.
BARE_SETTINGS = (
    "MAX_ACTIVE",
    "QUEUE_MODE",
    "QUEUE_MAX",
    "QUEUE_TIMEOUT_S",
    "REQUEST_TIMEOUT_S",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)

HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    maxconn 9000
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 60s
    option http-keep-alive
    option http-no-delay
    option abortonclose
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    default_backend engine
backend engine
    server e0 127.0.0.1:{engine_port} maxconn {max_at_once}
"""

LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{engine_port}/v1
      api_key: none
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a target is to stand."""

    engine_port: int
    port: int
    spare_port: int
    """For targets that want a second one (their metrics)."""
    folder: Path
    peers_envs: tuple[Path, ...]
    model: str

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start; `argv` is empty for the target that is no gateway."""

    version: str
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    health: str = "/health"
    slow: bool = False
    """So slow that it gets a 20th of the streams; one core cannot serve it more."""


@dataclass(frozen=True, slots=True)
class Absent:
    why: str


def direct(site: Site) -> Launch | Absent:
    return Launch(version="no gateway")


def headgate(site: Site) -> Launch | Absent:
    """Everything on, as it comes: request log, metrics, accounting; only the two limits are raised."""
    version = _distribution_version(Path(sys.executable), "headgate")
    if not version:
        return Absent("not installed in this Python: pip install -e .")
    return _headgate(Path(sys.executable), version, site)


def headgate_compiled(site: Site) -> Launch | Absent:
    """The same with its road compiled, from the environment that `make compiled-env` makes."""
    for folder in site.peers_envs:
        python = folder / "bin" / "python"
        if version := compiled_version(python):
            launch = _headgate(python, version, site)
            launch.env.pop("PYTHONPATH", None)
            return launch
    looked = ", ".join(str(folder) for folder in site.peers_envs)
    return Absent(f"no compiled headgate in {looked}: make compiled-env")


def _headgate(python: Path, version: str, site: Site) -> Launch:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEADGATE_") and name not in BARE_SETTINGS
    }
    env |= {
        "HEADGATE_ENGINE": "remote",
        "HEADGATE_ENGINE_URLS": site.engine_url,
        "HEADGATE_PORT": str(site.port),
        "HEADGATE_MAX_ACTIVE": str(MAX_AT_ONCE),
        "HEADGATE_QUEUE_MAX": str(MAX_AT_ONCE),
    }
    return Launch(version=version, argv=(str(python), "-m", "headgate", "serve"), env=env)


def haproxy(site: Site) -> Launch | Absent:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        return Absent("no haproxy on this machine: apt install haproxy")
    config = site.folder / "haproxy.cfg"
    config.write_text(HAPROXY_CONFIG.format(port=site.port, engine_port=site.engine_port, max_at_once=MAX_AT_ONCE))
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    return Launch(version=said.split()[2] if said else "?", argv=(program, "-db", "-f", str(config)))


def sglang_router(site: Site) -> Launch | Absent:
    return _peer(
        site,
        "sglang-router",
        "launch",
        f"--worker-urls={site.engine_url}",
        "--policy=round_robin",
        "--host=127.0.0.1",
        f"--port={site.port}",
        "--prometheus-host=127.0.0.1",
        f"--prometheus-port={site.spare_port}",
        f"--max-concurrent-requests={MAX_AT_ONCE}",
        "--worker-startup-check-interval=1",
    )


def vllm_router(site: Site) -> Launch | Absent:
    return _peer(
        site,
        "vllm-router",
        f"--worker-urls={site.engine_url}",
        "--policy=round_robin",
        "--host=127.0.0.1",
        f"--port={site.port}",
        "--prometheus-host=127.0.0.1",
        f"--prometheus-port={site.spare_port}",
        f"--max-concurrent-requests={MAX_AT_ONCE}",
        "--worker-startup-check-interval=1",
    )


def litellm(site: Site) -> Launch | Absent:
    """Not in the default set: a millisecond for each event is another order of cost."""
    config = site.folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(model=site.model, engine_port=site.engine_port))
    launch = _peer(site, "litellm", f"--config={config}", "--host=127.0.0.1", f"--port={site.port}")
    if isinstance(launch, Absent):
        return launch
    env = launch.env | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches a price list from the net at every start
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # loopback, and the others have no key
    }
    return replace(launch, env=env, health="/health/liveliness", slow=True)


Target = Callable[[Site], Launch | Absent]

TARGETS: dict[str, Target] = {
    "direct": direct,
    "headgate": headgate,
    "headgate-compiled": headgate_compiled,
    "haproxy": haproxy,
    "sglang-router": sglang_router,
    "vllm-router": vllm_router,
    "litellm": litellm,
}


def _peer(site: Site, name: str, *arguments: str) -> Launch | Absent:
    """A program of one of the peers' environments, with the version of the distribution of the same name."""
    for folder in site.peers_envs:
        program = folder / "bin" / name
        if program.exists():
            version = _distribution_version(folder / "bin" / "python", name) or "?"
            return Launch(version=version, argv=(str(program), *arguments), env=dict(os.environ))
    looked = ", ".join(str(folder) for folder in site.peers_envs)
    return Absent(f"no {name} in {looked}: see loadtest/README.md")


def compiled_version(python: Path) -> str:
    """The version of the gateway whose road is compiled there; empty without one."""
    code = "import headgate; print(headgate.__version__ if headgate.is_compiled() else '')"
    if not python.exists():
        return ""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it would be another's source
    asked = subprocess.run([python, "-c", code], cwd="/", env=env, capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _distribution_version(python: Path, name: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""
