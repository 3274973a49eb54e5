"""What a start says to the person who started it: on standard output, and in the log."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from headgate.cli import main
from headgate.keys import edit
from headgate.keys.records import hash_of
from headgate.settings import default_of, load
from headgate.workbench.check import Look
from tests.wire.gateway import START_S, gateway, wait_until


def announced(*flags: str) -> str:
    """All of standard output, of a start and its end."""
    with gateway("http://127.0.0.1:9", *flags, ready=False) as gate:
        gate.terminate()
        gate.exit_status()
        assert gate.process.stdout is not None
        return "".join((*gate.said, gate.process.stdout.read()))


def test_request_to_try_carries_the_key_and_goes_to_an_address() -> None:
    said = announced("--host", "0.0.0.0", "--api-key", "very-secret")
    assert "listens on http://0.0.0.0:" in said
    [page, curl] = [line for line in said.splitlines() if line.startswith(("  page ", "  try "))]
    assert " http://127.0.0.1:" in page
    assert " http://127.0.0.1:" in curl
    assert '-H "authorization: Bearer $HEADGATE_API_KEY" -d' in curl
    assert "very-secret" not in said


def test_request_to_try_carries_no_key_where_none_is_asked_for() -> None:
    assert "authorization" not in announced()


@pytest.mark.parametrize("role", ["user", "admin"])
def test_admin_key_is_made_up_and_told_where_nobody_has_one(role: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(edit.add("", "a", {"hash": hash_of("secret"), "role": role}))
    said = announced("--api-keys-file", str(file))
    assert ("key made for this run" in said) is (role == "user")
    assert '-H "authorization: Bearer hg-…"' in said


def test_variable_that_lacks_the_prefix_is_told_of_once_without_its_value() -> None:
    """The gateway was open with a key set, as somebody thought, and said nothing."""
    with gateway("http://127.0.0.1:9", env={"API_KEY": "very-secret", "PORT": "9"}, ready=False) as gate:
        assert gate.status()["auth"]["generation"] == "open"
        lines = [json.loads(line) for line in gate.log().splitlines()]
        said = [line for line in lines if "API_KEY" in line["message"]]
        assert [(line["level"], line["message"].rpartition("; ")[2]) for line in said] == [
            ("warning", "set HEADGATE_API_KEY")
        ]
        assert "very-secret" not in gate.log()


@pytest.mark.parametrize("streams", ["2>&-", ">&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"])
def test_gateway_serves_whatever_its_standard_streams_are(streams: str, tmp_path: Path) -> None:
    """With one closed or full a start ended, and with standard error closed it did so without a word."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "headgate", "serve", "--port", str(port), "--cache-dir", str(tmp_path)]
    process = subprocess.Popen(["sh", "-c", f"exec {shlex.join(command)} {streams}"])

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        return process.poll() is not None

    try:
        wait_until(answers, "the gateway answers", START_S)
        assert process.poll() is None, "it ended"
        if streams.startswith("<"):  # nor has a socket the number of one of them
            assert {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)} == {os.devnull}
    finally:
        process.terminate()
        status = process.wait(20)
    assert status == 0


def test_gateway_starts_where_the_user_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container under a made-up number neither `serve` nor its help got further than a trace."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    settings = load({"port": "0"}, {})
    assert not settings.cache_dir.parent.is_dir()
    assert not list(Path().glob("~*"))
    assert default_of("cache_dir") == str(settings.cache_dir)
    assert CliRunner().invoke(main, ["stop-engine"]).output == "No engine was left running by a gateway on 8080.\n"
    findings = {finding.name: finding for finding in Look("a/model", {"port": "0"}, {"HF_HUB_OFFLINE": "1"}).findings()}
    assert "can't be written" in findings["cache"].what


def test_stream_that_lacks_a_sign_ends_no_command() -> None:
    """`bench` ended so once the load was over, and `serve` with a keys file at its start."""
    shown = subprocess.run(
        [sys.executable, "-c", "from headgate.cli import _open_standard_streams as o; o(); print('hg-…')"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert shown.stdout == b"hg-?\n"
