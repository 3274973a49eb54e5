"""A client's process, asked by lines: see ``scripts/telling.py``. What it says is judged here."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.gateway import Gateway

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ANSWER_WITHIN_S = 60.0
"""LiteLLM alone takes 4 s to be imported, and more where two cores have other work."""
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches a list of prices when it is imported
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1,localhost",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which programs speak to the gateway.

    Attributes:
        name: of the environment, ``.venv-clients-NAME``.
        script: the module under ``scripts``.
        ask: what each call is given besides the URL.
        path: the route that it asks.
    """

    name: str
    script: str
    ask: tuple[tuple[str, Any], ...] = ()
    path: str = "/v1/chat/completions"

    @property
    def anthropic(self) -> bool:
        """Whether it speaks Anthropic's API."""
        return self.path == "/v1/messages"

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for _, value in self.ask)])


OPENAI = tuple(Kind(f"openai-{line}", "openai_python") for line in (1, 2, 3))
ANTHROPIC = Kind("anthropic", "anthropic_python", path="/v1/messages")
LANGCHAIN_OPENAI = Kind("langchain", "langchain", (("by", "openai"),))
LANGCHAIN_ANTHROPIC = Kind("langchain", "langchain", (("by", "anthropic"),), "/v1/messages")
LITELLM = Kind("litellm", "litellm_sdk")
NODE = Kind("node", "openai.mjs")
KINDS = (*OPENAI, ANTHROPIC, LANGCHAIN_OPENAI, LANGCHAIN_ANTHROPIC, LITELLM, NODE)


@dataclass(slots=True)
class Told:
    """What the client's program saw; ``scripts/telling.py`` says what each is."""

    text: str
    pieces: int
    finish: str | None
    usage: dict[str, Any] | None
    headgate: dict[str, Any] | None
    error: dict[str, Any] | None
    seconds: float
    slept: list[float]
    retries: list[str]
    more: dict[str, Any]

    @property
    def raised(self) -> dict[str, Any]:
        """The error, which there must be."""
        assert self.error is not None, f"nothing was raised: {self}"
        return self.error

    @property
    def well(self) -> Told:
        """Itself, if nothing was raised."""
        assert self.error is None, self.error
        return self


class Client:
    """A running client."""

    def __init__(self, kind: Kind, process: subprocess.Popen[str]) -> None:
        self.kind = kind
        self._process = process

    def start(self, gate: Gateway, do: str, *, ask: dict[str, Any] | None = None, **what: Any) -> None:
        """Ask for something, and don't wait for it."""
        given = {"url": f"http://127.0.0.1:{gate.port}", **dict(self.kind.ask), **(ask or {})}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "ask": given, **what}) + "\n")
        self._process.stdin.flush()

    def told(self) -> Told:
        """What became of it."""
        return Told(**self.line())

    def ask(self, gate: Gateway, do: str, **what: Any) -> Told:
        """Both."""
        self.start(gate, do, **what)
        return self.told()

    def line(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            assert ready.select(ANSWER_WITHIN_S), f"{self.kind} says nothing"
        line = self._process.stdout.readline()
        assert line, f"{self.kind} has ended"
        said: dict[str, Any] = json.loads(line)
        return said


def environment(name: str) -> Path:
    """The folder of a client's environment; skips the test where it isn't made."""
    folder = ROOT / f".venv-clients-{name}"
    if not (folder / "headgate-made").exists():
        pytest.skip(f"no environment for {name} (make test-clients makes it)")
    return folder


def command(kind: Kind, folder: Path) -> tuple[list[str], Path]:
    """How its process is started, and where."""
    if kind.script.endswith(".mjs"):  # a module finds packages beside itself
        node = shutil.which("node")
        assert node is not None
        shutil.copy(HERE / "node" / kind.script, folder / kind.script)
        return [node, kind.script], folder
    return [str(folder / "bin" / "python"), "-m", f"tests.clients.scripts.{kind.script}"], ROOT


@contextmanager
def running(kind: Kind, stderr: IO[str]) -> Iterator[Client]:
    """A client that is ready to be asked. Its environment has no keys and no base URLs of whoever runs the tests."""
    start, folder = command(kind, environment(kind.name))
    given = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_", "LITELLM_"))
    }
    process = subprocess.Popen(
        start,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=folder,
        env={**given, **QUIET},
    )
    client = Client(kind, process)
    try:
        assert "ready" in client.line()
        yield client
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
