"""The load in front of a target: a closed loop of so many requests at once, over keep-alive connections.

A process of its own, so that what it burns can be told from what the gateway burns. It takes jobs on stdin
and answers on stdout, one JSON object a line:

    → {"port": …, "stream": true, "at_once": 200, …}   the fields of `Job`
    ← {"ready": true}                                  connections are open, nothing is sent yet
    → go
    ← {"wall_s": …, "completed": …, "errors": {…}, …}

Between `ready` and `go` the caller reads the gateway's clocks. It ends with stdin.
"""

import asyncio
import gc
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from math import ceil

import uvloop

from loadtest.overhead import wire
from loadtest.overhead.load import Connection, Tally

HOST = "127.0.0.1"
CONNECT_TRIES = 3
_SEED = 7


@dataclass(frozen=True, slots=True)
class Job:
    """One load. It stops by itself: after `requests`, or after `limit_s`."""

    port: int
    stream: bool
    at_once: int
    requests: int
    limit_s: float
    events: int = 1
    interval_ms: float = 0.0
    delay_ms: float = 0.0
    include_usage: bool = False
    stagger_s: float = 0.0
    """The first requests of all connections are spread over this time."""
    rate_per_s: float = 0.0
    """Above 0 an open loop: requests are due at times drawn beforehand (Poisson, the same in every run), whoever
    still waits, and what they took counts from when they were due. `at_once` connections are open before."""


class Load:
    """Runs one job; every connection sends its next request as soon as the one before has ended."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tally = Tally()
        self._left = job.requests
        self._nonce = 0
        self._in_flight = 0
        self._stopped = False
        self._idle = asyncio.Event()
        self._connections: set[Connection] = set()
        self._resting: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._body = wire.request_template(
            stream=job.stream,
            include_usage=job.include_usage,
            events=job.events,
            interval_ms=job.interval_ms,
            delay_ms=job.delay_ms,
        )
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}:{job.port}\r\nuser-agent: overhead-bench\r\n"
            f"accept: */*\r\ncontent-type: application/json\r\ncontent-length: {len(self._body % 0)}\r\n\r\n"
        ).encode()

    async def connect(self) -> None:
        await asyncio.gather(*(self._open() for _ in range(min(self._job.at_once, self._job.requests))))

    async def run(self) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        started_ns = time.monotonic_ns()
        if not self._connections:
            return summary(self._tally, 0.0)
        if self._job.rate_per_s:
            self._resting = list(self._connections)
            self._in_flight = self._job.requests
            draw = random.Random(_SEED)
            due = loop.time()
            for _ in range(self._job.requests):
                due += draw.expovariate(self._job.rate_per_s)
                loop.call_at(due, self._arrive, due)
        else:
            step_s = self._job.stagger_s / max(1, len(self._connections))
            for number, connection in enumerate(list(self._connections)):
                self._in_flight += 1
                loop.call_later(number * step_s, self._next, connection)
        try:
            async with asyncio.timeout(self._job.limit_s):
                await self._idle.wait()
        except TimeoutError:
            self._stopped = True
            # Whole requests end by themselves; a stream that is not through by now is an error.
            try:
                async with asyncio.timeout(0.0 if self._job.stream else 5.0):
                    await self._idle.wait()
            except TimeoutError:
                self._tally.errors["unfinished"] += self._in_flight
        wall_s = (time.monotonic_ns() - started_ns) / 1e9
        result = summary(self._tally, wall_s)
        for connection in self._connections:
            connection.close()
        return result

    async def _open(self) -> Connection | None:
        loop = asyncio.get_running_loop()
        usage_events = 1 if self._job.include_usage else 0
        for last in [False] * (CONNECT_TRIES - 1) + [True]:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self._tally, self._job.events, usage_events, self._ended),
                    HOST,
                    self._job.port,
                )
            except OSError:
                if last:
                    self._tally.errors["connect_failed"] += 1
                    return None
                await asyncio.sleep(0.1)
            else:
                self._connections.add(connection)
                return connection
        return None

    def _arrive(self, due: float) -> None:
        """A request of the open loop is due: on a connection that rests, or on a new one."""
        if self._stopped:
            self._rest()
            return
        late_ns = round((asyncio.get_running_loop().time() - due) * 1e9)
        while self._resting:
            connection = self._resting.pop()
            if connection.open:
                self._send(connection, late_ns)
                return
            self._connections.discard(connection)
        task = asyncio.ensure_future(self._open_and_send(late_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_and_send(self, late_ns: int) -> None:
        began_ns = time.monotonic_ns()
        connection = await self._open()
        if connection is None:
            self._rest()
        else:
            self._send(connection, late_ns + time.monotonic_ns() - began_ns)

    def _send(self, connection: Connection, late_ns: int = 0) -> None:
        self._nonce += 1
        body = self._body % self._nonce
        connection.send(self._head, body, self._nonce, stream=self._job.stream, late_ns=late_ns)

    def _next(self, connection: Connection) -> None:
        """Sends the next request of this connection, or lets it rest; it is counted in flight already."""
        if self._left <= 0 or self._stopped:
            self._rest()
        elif connection.open:
            self._left -= 1
            self._send(connection)
        else:
            task = asyncio.ensure_future(self._reopen(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reopen(self, lost: Connection) -> None:
        self._connections.discard(lost)
        connection = await self._open()
        if connection is None:
            self._rest()
        else:
            self._next(connection)

    def _ended(self, connection: Connection) -> None:
        if self._job.rate_per_s:
            self._resting.append(connection)
            self._rest()
        else:
            self._next(connection)

    def _rest(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()


def summary(tally: Tally, wall_s: float) -> dict[str, object]:
    return {
        "wall_s": wall_s,
        "completed": tally.completed,
        "events": tally.events,
        "errors": dict(tally.errors),
        "ttft_ms": spread_ms(tally.first_ns),
        "latency_ms": spread_ms(tally.whole_ns),
        "event_delay_ms": spread_ms(tally.late_ns),
    }


def spread_ms(values_ns: list[int]) -> dict[str, float] | None:
    """Nearest-rank percentiles; None where there is nothing."""
    if not values_ns:
        return None
    ordered = sorted(values_ns)
    ranks = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    # Without the rounding 99 % of 100 would be the 100th: 0.99 has no exact form.
    return {name: ordered[ceil(round(rank * len(ordered), 9)) - 1] / 1e6 for name, rank in ranks.items()}


async def serve_jobs() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        load = Load(Job(**json.loads(line)))
        await load.connect()
        gc.collect()
        gc.disable()
        print(json.dumps({"ready": True}), flush=True)
        await lines.readline()
        result = await load.run()
        gc.enable()
        print(json.dumps(result), flush=True)


def job_line(job: Job) -> bytes:
    return json.dumps(asdict(job)).encode() + b"\n"


if __name__ == "__main__":
    uvloop.run(serve_jobs())
