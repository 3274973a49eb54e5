"""What the gateway's own code takes for a whole request, or for a refusal, with no socket and no kernel in it.

    python -m loadtest.overhead.inside             # µs per request, the least of many batches
    python -m loadtest.overhead.inside --refused   # in front of a full line
    python -m loadtest.overhead.inside --profile   # and which functions they go to (which makes all of them slower)

The real application and everything under it, put together by the composition root; only the two transports are
stand-ins, which answer in the next turn of the loop. The least of the batches, because whatever else runs can only
add: it tells two versions apart on a machine that is too busy for `python -m loadtest.overhead`, and where to look. It
says nothing of the kernel's half, nor of cold caches, which double it.
"""

import argparse
import asyncio
import cProfile
import gc
import io
import pstats
import time
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from headgate.api.connection import Connection
from headgate.app import Gateway
from headgate.call import Route
from headgate.flow import Engines
from headgate.relay.upstream import Exchange, Upstream
from headgate.settings import load as load_settings
from loadtest.overhead import wire

AT_ONCE = 32
BATCH = 2_000

_ASKED = wire.request_template(stream=False, include_usage=False, events=1, interval_ms=0, delay_ms=0) % 1
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: inside\r\naccept: */*\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_ASKED), _ASKED)
)
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1750000000,"model":"%b","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"An answer of a few words."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":200,"completion_tokens":6,"total_tokens":206}}' % wire.MODEL.encode()
)
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)


class Nowhere(io.StringIO):
    """The log: its lines are made, and go nowhere."""

    def write(self, text: str) -> int:
        return len(text)


class Transport:
    """A connection that is open, takes everything at once, and calls ``written`` in the loop's next turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.written: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self._loop.call_soon(self.written)

    def set_write_buffer_limits(self, high: int) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"sockname": ("127.0.0.1", 8080), "peername": ("127.0.0.1", 50000)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...


class Load:
    """A closed loop over ``AT_ONCE`` connections: what is answered is asked again, and batches are counted of that."""

    def __init__(self, gateway: Gateway, batches: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._batches = batches
        self._answers = 0
        self._began_ns = 0
        self.took_us: list[float] = []
        self.done = self._loop.create_future()
        config = uvicorn.Config(gateway.application, ws="none", lifespan="off", log_config=None)
        config.load()
        roads = gateway.generation.roads
        state = ServerState()
        state.default_headers = [(b"date", b"Tue, 24 Nov 2026 12:00:00 GMT")]
        self._connections = [self._open(Connection(config, state, {}, self._loop, roads=roads)) for _ in range(AT_ONCE)]

    def _open(self, connection: Connection) -> Connection:
        transport = Transport(self._loop)
        transport.written = lambda: self._answered(connection)
        connection.connection_made(as_any(transport))
        return connection

    def start(self) -> None:
        self._began_ns = time.thread_time_ns()
        for connection in self._connections:
            connection.data_received(REQUEST)

    def _answered(self, connection: Connection) -> None:
        if self.done.done():
            return
        self._answers += 1
        if self._answers % BATCH == 0:
            now_ns = time.thread_time_ns()
            self.took_us.append((now_ns - self._began_ns) / BATCH / 1e3)
            self._began_ns = now_ns
            if len(self.took_us) == self._batches:
                self.done.set_result(None)
                return
        connection.data_received(REQUEST)


async def run(batches: int, *, refused: bool, profile: bool) -> None:
    given = {"engine": "remote", "engine_urls": "http://127.0.0.1:1", "max_active": "4096"}
    if refused:  # one is served and never ends, half of the others wait
        given |= {"max_active": "1", "queue_max": str(AT_ONCE // 2), "slo_ttft_s": "1"}
    gateway = Gateway(load_settings(given, {}), Nowhere(), log_as_json=True)
    as_any(gateway).engines = engines(Upstream("127.0.0.1", 1), answers=not refused)
    as_any(gateway)._flow._engines = gateway.engines
    as_any(gateway)._gate.resize("e0", int(given["max_active"]))
    load = Load(gateway, batches)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)
    profiler = cProfile.Profile()
    load.start()
    if profile:
        profiler.enable()
    await load.done
    profiler.disable()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    ordered = sorted(load.took_us)
    what = "refusal" if refused else "whole request"
    print(f"{ordered[0]:.1f} µs per {what} (median of {batches} batches {ordered[batches // 2]:.1f})")


def engines(upstream: Upstream, *, answers: bool) -> Engines:
    """One engine that is always ready, with its connections open, and that answers at once or never."""
    loop = asyncio.get_running_loop()
    for _ in range(AT_ONCE):
        exchange, transport = Exchange(upstream), Transport(loop)
        if answers:
            transport.written = lambda exchange=exchange: exchange.data_received(REPLY)  # type: ignore[misc]
        exchange.connection_made(as_any(transport))
        exchange.idle_since = loop.time() + 1e6
        as_any(upstream)._idle[exchange] = None
    route = Route(upstream, b"", b"host: 127.0.0.1\r\naccept: */*\r\n", can_include_usage=True)

    class Ready:
        def route(self, engine: str) -> Route:
            return route

        def suspect(self, engine: str) -> None:
            raise AssertionError(f"{engine} failed a request")

        def served(self, engine: str) -> None:
            return

        async def recovered(self, engine: str) -> bool:
            raise AssertionError(f"{engine} failed a request")

        def serves(self, model: str) -> bool:
            return True

        def any_ready(self) -> str:
            return "e0"

        def given_up(self) -> bool:
            return False

        def eta_s(self) -> float:
            return 0.0

    return Ready()


def as_any(what: object) -> Any:
    """What a stand-in stands in for, or what isn't meant to be reached from outside."""
    return what


def main() -> None:
    parser = argparse.ArgumentParser(description="What the gateway's own code takes for a request.")
    parser.add_argument("--batches", type=int, default=25, metavar="N", help=f"of {BATCH:,} requests (25)")
    parser.add_argument("--refused", action="store_true", help="requests that are refused, in front of a full line")
    parser.add_argument("--profile", action="store_true", help="show which functions the time goes to")
    options = parser.parse_args()
    uvloop.run(run(options.batches, refused=options.refused, profile=options.profile))


if __name__ == "__main__":
    main()
