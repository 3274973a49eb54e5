"""How gateways are started so that they promise a cap, a line and limits, each as its own documents advise.

What one of them doesn't promise is None in its promises, and isn't held against it. HAProxy's own errors are given
OpenAI's shape and a ``Retry-After``, which it offers to say but does not reckon.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from headgate.workbench.compare.start import NotStarted
from headgate.workbench.conformance.promises import Promises

_HAPROXY = """\
global
    maxconn 8192
defaults
    mode http
    maxconn 8192
    timeout connect 5s
    timeout http-request 10s
    timeout queue {queue_ms}ms
    timeout client {stall_ms}ms
    timeout server {silence_ms}ms
    option http-no-delay
    option abortonclose
    http-reuse always
{errors}
frontend clients
    bind 127.0.0.1:{port}
    http-request deny status 503 default-errorfiles if {{ queue(engine) ge {queue_max} }}
    default_backend engine
backend engine
    server e0 127.0.0.1:{engine_port} maxconn {max_active}
"""

_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{engine_port}/v1
      api_key: none
      max_parallel_requests: {max_active}
      timeout: {request_timeout_s}
      stream_timeout: {request_timeout_s}
router_settings:
  num_retries: 0
  disable_cooldowns: true
"""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where one is to stand, and what it is to promise."""

    port: int
    spare_port: int
    engine_port: int
    model: str
    promises: Promises
    folder: Path
    environments: tuple[Path, ...] = ()

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start, and what it then promises.

    Args:
        ends_by: its signal for an orderly end.
        cwd: where it runs; a folder of its own where that is None.
    """

    version: str
    argv: Sequence[str]
    promises: Promises
    env: Mapping[str, str] = field(default_factory=dict)
    ends_by: str = "SIGTERM"
    cwd: Path | None = None


def headgate(stand: Stand) -> Launch:
    """As it comes, with its limits set, and the order that promises first come, first served; ``fair`` has others."""
    from headgate import __version__

    p = stand.promises
    flags = {
        "engine-urls": stand.engine_url,
        "port": stand.port,
        "max-active": p.max_active,
        "queue-max": p.queue_max,
        "queue-timeout-s": p.queue_timeout_s,
        "request-timeout-s": p.request_timeout_s,
        "send-stall-s": p.stall_s,
        "queue-order": "fifo",
    }
    argv = [sys.executable, "-m", "headgate", "serve", *(f"--{name}={value}" for name, value in flags.items())]
    return Launch(__version__, argv, but_for(p, silence_s=None), {"HEADGATE_CACHE_DIR": str(stand.folder / "cache")})


def haproxy(stand: Stand) -> Launch:
    """``maxconn`` is its cap; ``timeout queue`` and a rule on the queue's length bound its line.

    ``maxqueue`` would not: with one server what is over it waits in the backend's queue instead. It limits silence, and
    not a whole request.
    """
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NotStarted("no haproxy on this machine: apt install haproxy")
    p = stand.promises
    errors = "\n".join(
        f"    http-error status {status} content-type application/json string "
        f"'{json.dumps({'error': {'message': message, 'type': 'server_error', 'param': None, 'code': code}})}'"
        + (" hdr retry-after 2" if status == 503 else "")
        for status, code, message in (
            (502, "engine_failed", "The engine failed."),
            (503, "busy", "The model is busy. Try again later."),
            (504, "timeout", "The engine took too long."),
        )
    )
    config = stand.folder / "haproxy.cfg"
    config.write_text(
        _HAPROXY.format(
            port=stand.port,
            engine_port=stand.engine_port,
            max_active=p.max_active,
            queue_max=p.queue_max,
            queue_ms=_ms(p.queue_timeout_s),
            stall_ms=_ms(p.stall_s),
            silence_ms=_ms(p.silence_s),
            errors=errors,
        )
    )
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    version = said.split()[2] if len(said.split()) > 2 else "?"
    argv = [program, "-db", "-f", str(config)]
    return Launch(version, argv, but_for(p, request_timeout_s=None), ends_by="SIGUSR1")


def sglang_router(stand: Stand) -> Launch:
    """Its token bucket, not refilled, is a cap; a queue of its own."""
    return _router(stand, "sglang-router", "launch")


def vllm_router(stand: Stand) -> Launch:
    """The same flags: it began as the same program."""
    return _router(stand, "vllm-router")


def _router(stand: Stand, name: str, *before: str) -> Launch:
    p = stand.promises
    program, version = _found(stand, name)
    argv = [
        program,
        *before,
        f"--worker-urls={stand.engine_url}",
        "--policy=round_robin",
        "--host=127.0.0.1",
        f"--port={stand.port}",
        "--prometheus-host=127.0.0.1",
        f"--prometheus-port={stand.spare_port}",
        "--worker-startup-check-interval=1",
        f"--max-concurrent-requests={p.max_active}",
        f"--queue-size={p.queue_max}",
        f"--queue-timeout-secs={_whole(p.queue_timeout_s)}",
        f"--request-timeout-secs={_whole(p.request_timeout_s)}",
        "--health-check-interval-secs=1",
        "--health-success-threshold=1",
        "--disable-circuit-breaker",
    ]
    return Launch(version, argv, but_for(p, silence_s=None, stall_s=None))


def litellm(stand: Stand) -> Launch:
    """``max_parallel_requests`` of a deployment is its cap; who is over it is refused, nobody waits."""
    p = stand.promises
    program, version = _found(stand, "litellm")
    config = stand.folder / "litellm.yaml"
    config.write_text(
        _LITELLM.format(
            model=stand.model,
            engine_port=stand.engine_port,
            max_active=p.max_active,
            request_timeout_s=p.request_timeout_s,
        )
    )
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches a price list from the net at every start
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # loopback, and the others have no key
    }
    argv = [program, f"--config={config}", "--host=127.0.0.1", f"--port={stand.port}"]
    return Launch(version, argv, but_for(p, queue_max=0, queue_timeout_s=None, silence_s=None, stall_s=None), env)


PEERS: dict[str, Callable[[Stand], Launch]] = {
    "headgate": headgate,
    "haproxy": haproxy,
    "sglang-router": sglang_router,
    "vllm-router": vllm_router,
    "litellm": litellm,
}


def by_command(command: str, stand: Stand) -> Launch:
    """Somebody's own: a command line with ``{port}``, ``{engine_url}`` and the promises' names. Raises ValueError."""
    given = {name: getattr(stand.promises, name) for name in Promises.__struct_fields__ if name != "first_come"}
    try:
        argv = [
            part.format(port=stand.port, engine_url=stand.engine_url, engine_port=stand.engine_port, **given)
            for part in shlex.split(command)
        ]
    except (KeyError, IndexError) as error:
        raise ValueError(f"--start-command has no value for {error}") from None
    named = {name: value for name, value in given.items() if f"{{{name}}}" in command}
    return Launch("", argv, Promises(**named), cwd=Path.cwd())


def but_for(promises: Promises, **fields: object) -> Promises:
    """These promises but for some."""
    return msgspec.structs.replace(promises, **fields)


def _found(stand: Stand, name: str) -> tuple[str, str]:
    """A program of one of the environments, with its distribution's version. Raises NotStarted."""
    for folder in stand.environments:
        program = folder / "bin" / name
        if program.exists():
            code = f"import importlib.metadata as m; print(m.version({name!r}))"
            asked = subprocess.run([folder / "bin" / "python", "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
            return str(program.absolute()), asked.stdout.strip() or "?"
    if program_ := shutil.which(name):
        return program_, "?"
    looked = ", ".join(str(folder) for folder in stand.environments)
    raise NotStarted(f"no {name} in {looked}: see docs/conformance.md")


def _ms(seconds: float | None) -> int:
    return round((seconds or 0) * 1000)


def _whole(seconds: float | None) -> int:
    return max(1, round(seconds or 0))
