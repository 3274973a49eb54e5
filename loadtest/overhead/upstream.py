"""A fake engine that is cheap enough not to be the bottleneck: what a gateway is put in front of.

It speaks as much of vLLM's HTTP as gateways ask of an engine: chat completions, whole and streamed, one HTTP
chunk and one write for each event as uvicorn has it, and the pages by which routers find out who is there.
What an answer looks like is said by the request (`wire`).

How streams move on is `pacing`'s. Run as a process: `python -m loadtest.overhead.upstream`; it prints
`{"port": …}` when it listens. Loopback only. It ends at SIGTERM, with no regard to what still runs.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import signal
import time
from typing import cast

import httptools
import uvloop

from loadtest.overhead import wire
from loadtest.overhead.pacing import Pace, Stream

HEAD = "HTTP/1.1 {status}\r\nserver: uvicorn\r\ncontent-type: {type}\r\n{length}\r\n"
STREAM_HEAD = HEAD.format(
    status="200 OK", type="text/event-stream; charset=utf-8", length="transfer-encoding: chunked\r\n"
).encode()


class Engine:
    """What all connections share: the pace, and the counts that the metrics page shows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pace = Pace(loop)
        self.running = 0
        self.tokens = 0
        self.requests = 0


class EngineProtocol(asyncio.Protocol):
    """One connection: reads requests one after the other, and answers them in order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._stream: Stream | None = None
        self._busy = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.finished()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.paused = True

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.paused = False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.transport is not None:
                self.transport.close()

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._url.startswith(b"/v1/chat/completions"):
            self._generate(b"".join(self._body))
        else:
            self._send(page(self._url.split(b"?")[0].decode(), self._engine))

    def finished(self) -> None:
        if self._busy:
            self._busy = False
            self._stream = None
            self._engine.running -= 1

    def _generate(self, body: bytes) -> None:
        try:
            asked = wire.read_request(body)
        except (ValueError, KeyError, TypeError, IndexError):
            self._send(reply("400 Bad Request", b'{"error":{"message":"not a request of this benchmark"}}'))
            return
        self._busy = True
        self._engine.running += 1
        self._engine.requests += 1
        self._engine.tokens += asked.events
        if asked.delay_ms > 0:
            self._engine.loop.call_later(asked.delay_ms / 1000, self._answer, asked)
        else:
            self._answer(asked)

    def _answer(self, asked: wire.Asked) -> None:
        if self.transport is None:
            return
        if asked.stream:
            self.transport.write(STREAM_HEAD)
            self._stream = Stream(asked, self.transport, self.finished)
            self._engine.pace.start(self._stream)
        else:
            self._send(reply("200 OK", wire.whole_reply(asked, time.monotonic_ns())))
            self.finished()

    def _send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


def reply(status: str, body: bytes, content_type: str = "application/json") -> bytes:
    head = HEAD.format(status=status, type=content_type, length=f"content-length: {len(body)}\r\n")
    return head.encode() + body


def page(path: str, engine: Engine) -> bytes:
    """What is asked of an engine beside generation, by path."""
    model = {
        "id": wire.MODEL,
        "object": "model",
        "created": 1750000000,
        "owned_by": "vllm",
        "root": wire.MODEL,
    }
    info = {
        "model_path": wire.MODEL,
        "served_model_name": wire.MODEL,
        "is_generation": True,
        "version": "0.0.0",
    }
    pages: dict[str, object] = {
        "/v1/models": {"object": "list", "data": [{**model, "parent": None, "max_model_len": 8192}]},
        "/version": {"version": "0.0.0"},
        "/get_model_info": info,
        "/model_info": info,
        "/get_server_info": {**info, "max_total_num_tokens": 1_000_000, "max_running_requests": 4096},
        "/server_info": {**info, "max_total_num_tokens": 1_000_000, "max_running_requests": 4096},
    }
    if path in pages:
        return reply("200 OK", json.dumps(pages[path]).encode())
    if path in ("/health", "/health_generate", "/ping", "/liveness", "/readiness"):
        return reply("200 OK", b"")
    if path == "/metrics":
        label = f'{{engine="0",model_name="{wire.MODEL}"}}'
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{label} {engine.running}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{label} 0",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{label} 0.01",
            "# TYPE vllm:generation_tokens_total counter",
            f"vllm:generation_tokens_total{label} {engine.tokens}",
            "# TYPE vllm:request_success_total counter",
            f'vllm:request_success_total{{engine="0",finished_reason="length"}} {engine.requests}',
            "# TYPE vllm:cache_config_info gauge",
            'vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="65536"} 1',
        ]
        return reply("200 OK", "\n".join([*lines, ""]).encode(), "text/plain; version=0.0.4; charset=utf-8")
    return reply("404 Not Found", b'{"detail":"Not Found"}')


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    engine = Engine(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: EngineProtocol(engine), "127.0.0.1", port, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="The fake engine of the overhead benchmark.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
