"""What a target is found to take before the load, from a server that a test makes up."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.raw import Plan
from headgate.workbench.bench.target import Aim, Unreachable, find
from headgate.workbench.check.remote import why_silent
from tests.tools import tool

DEAD = "http://127.0.0.1:9"


class Engine(BaseHTTPRequestHandler):
    """One that takes everything and counts a token for each word; ``away`` has what it was asked while it was away."""

    away: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.away.append(self.path)
            self.send_response(503)
            self.send_header("Retry-After", "3600")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self._say({"data": [{"id": "m"}]} if self.path.endswith("/v1/models") else {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = len(asked["messages"][0]["content"].split())
        self._say({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": words}})

    def _say(self, said: object) -> None:
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def engine(host: str, certificate: Path | None = None) -> Iterator[int]:
    """One on a free port."""
    server = ThreadingHTTPServer((host, 0), Engine)
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def found(url: str) -> Aim:
    return find(Plan(stream=False), url, [Caller()])


def test_a_target_is_asked_the_way_the_load_goes_and_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked through $HTTP_PROXY, which the load knows nothing of, but on three names of this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, DEAD)
    with engine("127.0.0.2") as port:
        assert found(f"http://127.0.0.2:{port}/v1").target.model == "m"


def test_a_target_is_trusted_if_the_load_trusts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that OpenSSL trusts, as the load does, was refused on this machine."""
    pem = tmp_path / "pem"
    command = [tool("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(pem), "-out", str(pem) + ".crt"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", f"{pem}.crt")
    with engine("127.0.0.1", pem) as port:
        aim = found(f"https://127.0.0.1:{port}/behind/a/prefix/v1/")
    assert aim.target.path == "/behind/a/prefix/v1/chat/completions"


def test_one_that_says_it_will_be_away_for_long_is_not_asked_again() -> None:
    """Its Retry-After was not read as most servers write it, and it was asked each second for 30 s."""
    with engine("127.0.0.1") as port, pytest.raises(Unreachable, match="503"):
        found(f"http://127.0.0.1:{port}/away")
    assert Engine.away == ["/away/v1/models"]


def test_how_long_there_was_no_answer_is_told_by_whoever_waited() -> None:
    """After a minute it said: in 4 s."""
    assert why_silent(httpx.ReadTimeout("")) == "no answer in 4 s"
    assert why_silent(httpx.ReadTimeout(""), 60.0) == "no answer in 60 s"
