"""A stack that was started as a person starts it: a checkout's folder, ``setup.sh``, ``docker-compose up``.

The folder is a copy, so that the ``.env`` of whoever runs the tests stays his. Ports are free ones. Images are there
already, so nothing is built by ``up``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compose.bases import ROOT
from tests.compose.engine import Engine, run

PROJECT = "headgate-test"
PORTS = ("GATEWAY_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "WEBUI_PORT")
UP_S = 150.0


@dataclass(frozen=True, slots=True)
class Stack:
    """The folder with its ``.env``, in an engine."""

    engine: Engine
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """What ``.env`` says."""
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    def url(self, port: str) -> str:
        """Where a published port is."""
        return f"http://127.0.0.1:{self.settings[port]}"

    def compose(self, *arguments: str, timeout_s: float = 120, status: int = 0) -> str:
        """``docker-compose …`` in the folder."""
        return run(["docker-compose", *arguments], self.engine.env, cwd=self.folder, timeout_s=timeout_s, status=status)

    def script(self, name: str, *, status: int = 0, **env: str) -> str:
        """What one of the folder's scripts says."""
        return run([f"./{name}"], self.engine.env | env, cwd=self.folder, timeout_s=120, status=status)

    def up(self, *more: str) -> None:
        """Started, with all that stands above it by health; fails with the logs of what is not healthy."""
        self.compose("--profile", "redis", "up", "-d", "--no-build", *more, timeout_s=UP_S)
        deadline_s = time.monotonic() + UP_S
        while waited_for := {name: health for name, health in self.health().items() if health != "healthy"}:
            if time.monotonic() > deadline_s:
                raise AssertionError(f"not healthy: {waited_for}\n{self.compose('logs', '--tail=40', *waited_for)}")
            time.sleep(0.5)  # containers, outside this process: there is nothing to wait on but what the engine says

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        name = self.compose("ps", "-q", service).split()[-1]
        found: dict[str, Any] = json.loads(self.engine.docker("inspect", name))[0]
        return found

    def health(self) -> dict[str, str]:
        """Each container's health by its service; its state, where it isn't running."""
        listed = self.engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
        healths: dict[str, str] = {}
        for container in json.loads(self.engine.docker("inspect", *listed)) if listed else []:
            state = container["State"]
            name = container["Config"]["Labels"]["com.docker.compose.service"]
            healths[name] = state["Health"]["Status"] if state["Running"] else state["Status"]
        return healths

    def inside(self, service: str, *command: str) -> str:
        """What a command says inside a service's container."""
        return self.compose("exec", "-T", service, *command).strip()

    def kill(self, service: str, python: str, script: str) -> None:
        """Have a script end the process on which a service's container lives.

        The container may end before the script does, and take it along, as by SIGKILL.
        """
        done = (0, 128 + signal.SIGKILL)
        run(
            ["docker-compose", "exec", "-T", service, python, "-c", script],
            self.engine.env,
            cwd=self.folder,
            status=done,
        )

    def chat(self, *, key: str | None = None, stream: bool = False, max_tokens: int = 5) -> tuple[int, str]:
        """A chat through the published port; status and body."""
        model = json.loads(self.get("/v1/models"))["data"][0]["id"]
        body = {"model": model, "stream": stream, "max_tokens": max_tokens}
        body |= {"messages": [{"role": "user", "content": "Hello"}]}
        key = self.settings["HEADGATE_API_KEY"] if key is None else key
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(
            self.url("GATEWAY_PORT") + "/v1/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    def get(self, path: str, port: str = "GATEWAY_PORT") -> str:
        """What is at a path of a published port, asked with the key."""
        headers = {"authorization": f"Bearer {self.settings['HEADGATE_API_KEY']}"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url(port) + path, headers=headers), timeout=10
        ) as answer:
            return str(answer.read().decode())

    def wait_ready(self, within_s: float = 60.0) -> None:
        """Until the gateway says that requests may be sent."""
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                self.get("/ready")
            except OSError:
                assert time.monotonic() < deadline_s, f"not ready:\n{self.compose('logs', '--tail=40', 'gateway')}"
                time.sleep(0.2)  # a process outside this one: there is nothing to wait on but its port
            else:
                return

    def down(self) -> None:
        """Gone, with its volumes."""
        self.compose("--profile", "redis", "down", "--volumes", "--timeout", "30")


def make(engine: Engine, folder: Path, variant: str) -> Stack:
    """The folder as a person has it after ``./setup.sh VARIANT``."""
    for name in ("compose", "monitoring"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".env", "__pycache__"))
    stack = Stack(engine, folder / "compose")
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
    run(["./setup.sh", variant], env, cwd=stack.folder)
    own = {"COMPOSE_PROJECT_NAME": PROJECT, **dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))}
    lines = (stack.folder / ".env").read_text().splitlines()
    kept = [line for line in lines if line.split("=", 1)[0] not in own]
    (stack.folder / ".env").write_text("\n".join([*kept, *(f"{name}={value}" for name, value in own.items())]) + "\n")
    return stack


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
