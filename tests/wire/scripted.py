"""An engine whose every byte the test chooses: what no simulated engine would say, though somebody's engine might."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from tests.wire.client import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIES = 2
"""How often a request is sent that no engine has begun to answer."""
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def chunked(*parts: bytes) -> bytes:
    """The end of a head, and a body in chunks that is whole."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def sized(body: bytes) -> bytes:
    """The end of a head, and a body whose length it says."""
    return b"content-length: %d\r\n\r\n%b" % (len(body), body)


class Scripted:
    """The engine: give it the answers to the generations that come, in their order."""

    def __init__(self, lists_models: bool) -> None:
        self.requests: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self._answers: SimpleQueue[tuple[bytes, bool]] = SimpleQueue()
        self.url = ""
        self.lists_models = lists_models

    def say(self, answer: bytes, *, then_close: bool = False) -> None:
        """Answer one request with these bytes, and leave the connection open unless told."""
        self._answers.put((answer, then_close))

    def next_answer(self) -> tuple[bytes, bool]:
        return self._answers.get(timeout=10)


@contextmanager
def scripted_engine(*, lists_models: bool = True) -> Iterator[Scripted]:
    """It listens and lists one model; 503 instead for as long as its ``lists_models`` is false."""
    script = Scripted(lists_models)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while first := self.rfile.readline():
                head: dict[str, str] = {}
                while (line := self.rfile.readline().strip().decode("latin-1")) != "":
                    name, _, value = line.partition(":")
                    assert name.lower() not in head, f"the gateway sent {name} twice"
                    head[name.lower()] = value.strip()
                length = int(head.get("content-length", 0))
                body = self.rfile.read(length)
                if first.startswith(b"GET /v1/models") and script.lists_models:
                    self.wfile.write(JSON + sized(json.dumps({"data": [{"id": MODEL}]}).encode()))
                elif first.startswith(b"GET /v1/models"):
                    self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
                elif first.startswith(b"GET"):
                    self.wfile.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                else:
                    script.requests.append(body)
                    script.heads.append(head)
                    answer, close = script.next_answer()
                    self.wfile.write(answer)
                    if close:
                        return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that left is none."""

    with Server(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
