"""A real gateway before an engine that answers mangled bytes: each request still ends once, and no slot stays held.

What the engine breaks is 502 ``engine_failed`` or an error in the stream: its doing, said as such. What must not come
is the gateway's own failing at it (its log would say so), a request without an end, or a slot that stays.
"""

from __future__ import annotations

import json
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.fuzz import TOLD, chance, share
from tests.fuzz.mutate import mutated
from tests.relay.test_splits import STREAMS, raw
from tests.wire.client import CHAT, MODEL, chat
from tests.wire.gateway import Gateway, gateway
from tests.wire.scripted import JSON, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHOLE = (
    b'{"id":"x","model":"m","choices":[{"index":0,"text":"t","message":{"role":"assistant","content":"Hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)
_ERROR = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'
_REPLIES = [
    *(raw(name) for name in STREAMS),
    JSON + sized(_WHOLE),
    JSON + sized(_WHOLE),
    JSON.replace(b"200 OK", b"400 Bad Request") + sized(_ERROR),
    JSON.replace(b"200 OK", b"500 Oops") + sized(_ERROR),
    b"HTTP/1.1 204 No Content\r\n\r\n",
]


@contextmanager
def mangling_engine() -> Iterator[str]:
    """Its URL. Each generation gets the next mangled reply; the connection is closed behind it."""
    lock = threading.Lock()
    numbers = iter(range(1 << 40))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while first := self.rfile.readline():
                length = 0
                while (line := self.rfile.readline().strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.rfile.read(length)
                if first.startswith(b"GET /v1/models"):
                    self.wfile.write(JSON + sized(json.dumps({"data": [{"id": MODEL}]}).encode()))
                    continue
                if first.startswith(b"GET"):
                    self.wfile.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                with lock:
                    dice = chance("engine", next(numbers))
                self.wfile.write(mutated(dice.choice(_REPLIES), dice, 3))
                return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A gateway that has gone is none."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


HONEST = ("engine_failed", "engine_unavailable", "")
"""Its breaking, its being looked at after that, and what it says itself."""
_ROUTES = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/generate", "/tokenize")


def _ask(gate: Gateway, number: int) -> tuple[int, str]:
    dice = chance("asked", number)
    path = dice.choice(_ROUTES)
    asked = chat(2, stream=dice.random() < 0.6 and path != "/generate", prompt="Hello", input="Hello")
    if dice.random() < 0.3:
        asked["stream_options"] = {"include_usage": True}
    reply = gate.ask(asked, path)
    return reply.status, reply.headers.get("x-headgate-reason", "")


def test_mangled_answers_of_the_engine_end_each_request_once() -> None:
    count = share(0.02)
    flags = ("--max-active", "8", "--queue-max", "1000", "--wake-timeout-s", "15", "--request-timeout-s", "15")
    with mangling_engine() as url, gateway(url, *flags, "--log-level", "warning") as gate:
        before = gate.metric("api_requests_total", route=CHAT)
        with ThreadPoolExecutor(8) as pool:
            ends = list(pool.map(lambda number: _ask(gate, number), range(count)))
        assert len(ends) == count
        assert not [end for end in ends if end[0] >= 500 and end[1] not in HONEST], TOLD
        gate.until(active=0, queued=0)
        assert "gateway itself failed" not in gate.log(), (TOLD, gate.log()[-3000:])
        total = sum(gate.metric("api_requests_total", route=route) for route in _ROUTES) - before
        assert total == count, "each request has one end in the books"
