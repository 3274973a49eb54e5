"""What the gateway's own mistake at reading a request comes to: one refusal, in the log and in the books."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from headgate import shapes
from headgate.api.connection import Connection
from headgate.app import Gateway
from headgate.settings import load

REQUEST = b'POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{"'


def test_a_mistake_at_reading_is_a_refusal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else would answer: there is no framework around these routes."""

    class Mistaken:
        def decode(self, body: bytes) -> None:
            raise LookupError("a mistake")

    monkeypatch.setattr(shapes, "body", Mistaken())

    async def ask() -> tuple[bytes, dict[tuple[str, ...], float]]:
        settings = load({"engine": "remote", "engine_urls": "http://127.0.0.1:1"}, {})
        gateway = Gateway(settings, io.StringIO(), log_as_json=True)
        config = uvicorn.Config(gateway.application, ws="none", lifespan="off", log_config=None)
        config.load()
        roads = gateway.generation.roads
        loop = asyncio.get_running_loop()
        async with await loop.create_server(
            lambda: Connection(config, ServerState(), {}, roads=roads), "127.0.0.1", 0
        ) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(REQUEST)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer, gateway.metrics.requests.values

    with caplog.at_level(logging.ERROR):
        answer, counted = uvloop.run(ask())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert json.loads(body)["error"]["code"] == "engine_failed"
    assert counted == {("/v1/completions", "other", "anonymous", "502", "engine_failed"): 1.0}
    assert "LookupError: a mistake" in caplog.text
