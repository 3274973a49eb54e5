"""The clients: so many at once, each with one request at a time, and each request with exactly one outcome.

A client keeps its connection where the gateway lets it, as SDKs do. It reads strictly: an answer has ended well only
where HTTP says that it has ended, a stream only after `[DONE]`, and its text must be the engine's to the letter.
"""

import asyncio
import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from loadtest.chaos.asks import Ask, Mood, ask
from loadtest.chaos.books import Books, Excuse, Outcome

LIMIT_S = 120.0
"""A client's own limit for a request, far beyond all of the gateway's."""
AGAIN_S = 0.02
"""Between two tries to connect: a gateway that isn't there isn't asked a thousand times a second."""
REFUSED_S = 0.1
"""A refused client's pause. Real ones wait for as long as `Retry-After` says; a run has not that long."""
LATELY_S = 0.5
"""Log lines are written some ms after a request's end, so what ended so lately counts as under way."""
STORM_TIMES = 3
_GIANT = re.compile("x{1000,}")


class _Delta(msgspec.Struct):
    content: str | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    message: str = ""


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Body).decode


class Wire(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._ask: Ask | None = None
        self._ended: asyncio.Future[tuple[Outcome, str, str]] | None = None
        self._body: list[bytes] = []
        self._got = 0
        self._events = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.status = 0
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    @property
    def open(self) -> bool:
        return self.reusable and self.transport is not None and not self.transport.is_closing()

    def send(self, asked: Ask) -> "asyncio.Future[tuple[Outcome, str, str]]":
        """Its outcome, the reason that the gateway gave, and what is wrong."""
        assert self.transport is not None
        self._ask = asked
        self._ended = self._loop.create_future()
        self._body = []
        self._got = self._events = self.status = 0
        head, body = asked.head_and_body()
        if asked.way == "slow_send":
            cut = len(body) // 2
            self.transport.write(head[:20])
            self._loop.call_later(asked.pause_s / 2, self._write, head[20:] + body[:cut])
            self._timer = self._loop.call_later(asked.pause_s, self._write, body[cut:])
        else:
            self.transport.write(head + body)
        if asked.leaves and asked.moment == "at once":
            self._leave()
        elif asked.leaves and asked.moment == "soon":
            self._timer = self._loop.call_later(asked.pause_s, self._leave)
        return self._ended

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def give_up(self) -> None:
        self._over(Outcome.STUCK, "", f"no end within {LIMIT_S:g} s, status {self.status}, {self._got} bytes")
        if self.transport is not None:
            self.transport.abort()

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _leave(self) -> None:
        asked, transport = self._ask, self.transport
        if asked is None or transport is None or self._ended is None or self._ended.done():
            return
        self.reusable = False
        if asked.way == "half_close":
            if not transport.is_closing():
                transport.write_eof()
            return  # it is over when the gateway has closed, too
        if asked.way == "reset":
            sock = transport.get_extra_info("socket")
            with socket.socket(fileno=socket.dup(sock.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        self._over(Outcome.LEFT)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.reusable = False
        asked = self._ask
        if asked is not None and asked.leaves:
            self._over(Outcome.LEFT)
        else:
            self._over(Outcome.CUT, "", f"{self._got} bytes of an answer had come ({exc!r})")

    def data_received(self, data: bytes) -> None:
        asked = self._ask
        first = self._got == 0
        self._got += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._over(Outcome.WRONG, "", f"not HTTP: {data[:100]!r}")
            self.close()
            return
        if asked is None or self._ended is None or self._ended.done():
            return
        if first and asked.way == "slow_read" and self.transport is not None:
            self.transport.pause_reading()
            self._timer = self._loop.call_later(asked.pause_s, self._read_on)
        elif asked.leaves and ((first and asked.moment == "first byte") or self._events >= 3):
            self._leave()

    def _read_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._events += 1

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._ask is not None and self._ended is not None and not self._ended.done():
            self._over(*judge(self._ask, self.status, b"".join(self._body)))

    def _over(self, outcome: Outcome, reason: str = "", what: str = "") -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result((outcome, reason, what))
        self._ask = None


def judge(asked: Ask, status: int, body: bytes) -> tuple[Outcome, str, str]:
    """What an answer that ended by HTTP's rules is."""
    try:
        if status != 200:
            error = _decode(body).error
            if error is None or not error.code:
                return Outcome.WRONG, "", f"status {status} with no reason: {body[:200]!r}"
            return Outcome.REFUSED, _reason(error), ""
        if not asked.stream:
            told = _decode(body)
            said = (told.choices[0].message or _Delta()).content or ""
        else:
            pieces: list[str] = []
            done = False
            for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
                for line in event.split(b"\n"):
                    if line == b"data: [DONE]":
                        done = True
                    elif line.startswith(b"data: "):
                        told = _decode(line[6:])
                        if told.error is not None:
                            return Outcome.ERROR_EVENT, _reason(told.error), ""
                        pieces += [choice.delta.content or "" for choice in told.choices if choice.delta is not None]
                    elif line and not line.startswith(b":"):
                        return Outcome.WRONG, "", f"a line that is none of SSE's: {line[:100]!r}"
            said = "".join(pieces)
            if not done:
                return Outcome.WRONG, "", "a stream that ended well by HTTP, with no [DONE]"
    except (msgspec.MsgspecError, IndexError) as error:
        return Outcome.WRONG, "", f"{error}: {body[:200]!r}"
    expected = asked.expected()
    if said != expected and _GIANT.sub("", said) != expected:
        return Outcome.WRONG, "", f"text {said[:80]!r} instead of {expected[:80]!r}"
    return Outcome.OK, "", ""


def _reason(error: _Error) -> str:
    """The gateway's reason; an engine's own error, which is passed on as it came, has its status for a code."""
    return error.code if isinstance(error.code, str) else "engine_failed"


class Crowd:
    """All clients. `until` lets requests go out up to a number, and returns when all of them have ended."""

    def __init__(self, port: int, seed: int, requests: int, at_once: int, books: Books) -> None:
        self.mood: Mood = "calm"
        self.sent = 0
        self.excuse = 0
        """Bits that every request gets which is under way now or is sent while this stands."""
        self.under_way: set[int] = set()
        self.may_send: Callable[[int], bool] = lambda number: True
        self._port = port
        self._seed = seed
        self._limit = 0
        self._requests = requests
        self._at_once = at_once
        self._books = books
        self._idle: list[Wire] = []
        self._lately: deque[tuple[float, int]] = deque(maxlen=4096)
        self._loop = asyncio.get_running_loop()

    @property
    def can_send(self) -> bool:
        """Whether one more request may go out now."""
        return self.sent < self._limit and self.may_send(self.sent + 1)

    def excused(self, excuse: int) -> None:
        """From now on, and for what is under way or has just ended; until `unexcused`."""
        self.excuse |= excuse
        if excuse & Excuse.LINE_LOST:
            self._books.life.lossy = True
        since = self._loop.time() - LATELY_S
        for number in (*self.under_way, *(number for at, number in self._lately if at >= since)):
            self._books.excuses[number] |= excuse

    def unexcused(self, excuse: int) -> None:
        self.excuse &= ~excuse

    async def until(self, number: int) -> None:
        self._limit = min(number, self._requests)
        tasks = [
            asyncio.create_task(self._client(extra=i >= self._at_once)) for i in range(self._at_once * STORM_TIMES)
        ]
        await asyncio.gather(*tasks)

    def hang_up(self) -> None:
        """Close the idle connections."""
        for wire in self._idle:
            wire.close()
        self._idle.clear()

    async def _client(self, *, extra: bool) -> None:
        while self.sent < self._limit:
            if (extra and self.mood != "storm") or not self.may_send(self.sent + 1):
                await asyncio.sleep(0.05)
                continue
            wire = await self._connection()
            if wire is None or self.sent >= self._limit:
                if wire is not None:
                    self._idle.append(wire)
                continue
            self.sent = number = self.sent + 1
            self._books.excuses[number] |= self.excuse
            self.under_way.add(number)
            ended = wire.send(ask(self._seed, number, self.mood))
            limit = self._loop.call_later(LIMIT_S, wire.give_up)
            outcome, reason, what = await ended
            limit.cancel()
            self.under_way.discard(number)
            self._lately.append((self._loop.time(), number))
            self._books.end(number, outcome, reason, what)
            if wire.open:
                self._idle.append(wire)
            else:
                wire.close()
            if outcome is Outcome.CUT:
                await asyncio.sleep(AGAIN_S)
            elif outcome is Outcome.REFUSED:
                await asyncio.sleep(REFUSED_S)

    async def _connection(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if wire.open:
                return wire
        try:
            _, wire = await self._loop.create_connection(Wire, "127.0.0.1", self._port)
        except OSError:
            await asyncio.sleep(AGAIN_S)
            return None
        return wire
