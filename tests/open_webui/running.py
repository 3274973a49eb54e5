"""A real Open WebUI in front of a gateway: a process from its own environment, with a database of its own.

Its settings are those that docs/clients.md recommends, read from there; a test that needs others changes them as an
administrator does, through its API.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import pytest

from tests.wire.gateway import Gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-open-webui"
READY_WITHIN_S = 240.0
"""Ten seconds on two cores that have nothing else to do, when its files have been read before."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "openai",  # else it loads a model of its own at the start
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "WEBUI_AUTH": "false",  # one person, who need not sign in
    "WEBUI_SECRET_KEY": "of these tests",
}
BACKGROUND = ("ENABLE_TITLE_GENERATION", "ENABLE_TAGS_GENERATION", "ENABLE_FOLLOW_UP_GENERATION")


def recommended() -> dict[str, str]:
    """The settings that docs/clients.md gives for it."""
    page = (ROOT / "docs/clients.md").read_text()
    block = page.partition("## Open WebUI")[2].partition("```sh\n")[2].partition("```")[0]
    lines = shlex.split(block, comments=True)
    assert "OPENAI_API_BASE_URL=http://127.0.0.1:8080/v1" in lines
    return dict(line.split("=", 1) for line in lines)


@dataclass(slots=True)
class OpenWebUI:
    """A running one. Its only person is also its administrator."""

    url: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    http: httpx.Client

    def log(self) -> str:
        self.output.seek(0)
        return self.output.read().decode(errors="replace")

    def sign_in(self) -> None:
        """And say that the news of this version has been read."""
        told = self._post("/api/v1/auths/signin", {"email": "", "password": ""})
        self.http.headers["authorization"] = f"Bearer {told['token']}"
        version = self.http.get("/api/version").raise_for_status().json()["version"]
        self._post("/api/v1/users/user/settings/update", {"ui": {"version": version}})

    def stand_behind(self, url: str, key: str = "none") -> None:
        """Ask the gateway (or whatever is there) at this URL from now on."""
        self._post(
            "/openai/config/update",
            {
                "ENABLE_OPENAI_API": True,
                "OPENAI_API_BASE_URLS": [f"{url}/v1"],
                "OPENAI_API_KEYS": [key],
                "OPENAI_API_CONFIGS": {},
            },
        )
        self.models()

    def models(self) -> list[str]:
        """The models that it offers, asked for anew."""
        told = self.http.get("/api/models", params={"refresh": "true"}).raise_for_status().json()
        return [model["id"] for model in told["data"]]

    def background(self, *, on: bool) -> None:
        """Whether it asks for titles, tags and follow-ups by itself."""
        config = self.http.get("/api/v1/tasks/config").raise_for_status().json()
        self._post("/api/v1/tasks/config/update", config | dict.fromkeys(BACKGROUND, on))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = self.http.post(path, json=body).raise_for_status().json()
        return told


@contextmanager
def open_webui(gate: Gateway) -> Iterator[OpenWebUI]:
    """One in front of ``gate``; skips the test where it isn't installed."""
    if not (FOLDER / "headgate-made").exists():
        pytest.skip("no Open WebUI here (make test-open-webui installs it)")
    port = _free_port()
    given = {**recommended(), **OFFLINE, "OPENAI_API_BASE_URL": f"http://127.0.0.1:{gate.port}/v1"}
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [FOLDER / "bin" / "open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=data,
            env={**os.environ, **given, "DATA_DIR": data, "NO_PROXY": "127.0.0.1,localhost"},
            stdout=output,
            stderr=output,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
                started = OpenWebUI(url, process, output, http)
                wait_until(lambda: _healthy(started), "Open WebUI answers", READY_WITHIN_S)
                started.sign_in()
                yield started
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _healthy(started: OpenWebUI) -> bool:
    assert started.process.poll() is None, f"Open WebUI ended:\n{started.log()}"
    try:
        return started.http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
