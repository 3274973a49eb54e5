"""One HTTP exchange over raw ASGI: its body read, its reply written, whole or as events, with faults on the
way.

Raw ASGI because an engine that costs more than the gateway could not be used to measure it: an event is one
``send`` where no fault is wanted. Ends at bytes: what they say is in ``routes``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from headgate.simulator.answer import ClientLeft
from headgate.simulator.problem import Problem
from headgate.simulator.protocol import CONNECTION, Connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headgate.simulator.faults import Fault

_GARBAGE = b"\x16\x03\x01\x00\xff\xfe\r\n\r\nnot http at all\x00\r\n"
_BY_EVENT = frozenset({"crash", "error_first", "error_event", "cut", "reset", "garbage", "stall", "giant"})


class Over(Exception):
    """A fault has ended the reply; nothing more is to be written."""


def die(exit_code: int | None) -> None:
    """End this process as a crash does, with nothing tidied up."""
    if exit_code is None:
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os._exit(exit_code)


class Exchange:
    """A request and its reply."""

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.asked = parse_qsl(scope["query_string"].decode("latin-1"))
        self.query = dict(self.asked)
        self.connection: Connection = scope[CONNECTION]
        self.faults: list[Fault] = []
        self.received = b""
        self.send = send
        self._receive = receive

    def header(self, name: bytes) -> str | None:
        """A header's value, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self) -> bytes:
        """The whole body. Raises ClientLeft where it ends early."""
        message = await self._receive()
        parts = []
        while message["type"] == "http.request":
            parts.append(message["body"])
            if not message["more_body"]:
                # uvicorn stops reading at 64 KiB until it is asked for more, and would not see the client leave.
                self.connection.flow.resume_reading()
                self.received = parts[0] if len(parts) == 1 else b"".join(parts)
                return self.received
            message = await self._receive()
        raise ClientLeft

    async def json_body(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Problem (400) where it is none, or not said to be JSON."""
        raw = await self.body()
        media = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise Problem(400, "Unsupported Media Type: Only 'application/json' is allowed", "Bad Request")
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Problem(400, f"JSON decode error: {error}", "Bad Request") from error
        if not isinstance(value, dict):
            raise Problem(400, "Input should be a valid dictionary", "Bad Request")
        return value

    async def json(self, value: Any, status: int = 200) -> None:
        """Reply with JSON, whole."""
        await self.whole(msgspec.json.encode(value), b"application/json", status)

    async def whole(self, body: bytes, media: bytes = b"text/plain; charset=utf-8", status: int = 200) -> None:
        """Reply with a body of known length."""
        send = self.send
        if self.faults and not await self._faulty(body):
            return
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def head(self, media: bytes = b"text/event-stream; charset=utf-8") -> None:
        """Begin a reply of events."""
        for fault in self.faults:
            if fault.kind == "slow_head":
                await self.pause(fault.seconds or 0.0)
            elif fault.kind == "garbage_head":
                self._cut_with(_GARBAGE)
        await self.send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media)]})

    async def pause(self, seconds: float) -> None:
        """Wait so long. Raises ClientLeft where the client leaves meanwhile."""
        if self.connection.lost:
            raise ClientLeft
        gone = asyncio.Event()
        self.connection.when_lost[gone.set] = None
        try:
            async with asyncio.timeout(seconds):
                await gone.wait()
        except TimeoutError:
            return
        finally:
            self.connection.when_lost.pop(gone.set, None)
        raise ClientLeft

    def _cut_with(self, data: bytes, *, reset: bool = False) -> None:
        self.connection.write_raw(data)
        self.connection.cut(reset=reset)
        raise Over

    async def _faulty(self, body: bytes) -> bool:
        """Apply faults to a whole reply; True where it is to go on as if nothing were."""
        for fault in self.faults:
            if fault.kind in ("slow_head", "stall"):
                await self.pause(fault.seconds or 0.0)
            elif fault.kind == "crash":
                die(fault.exit_code)
            elif fault.kind == "garbage_head":
                self._cut_with(_GARBAGE)
            elif fault.kind in ("error_first", "error_event"):
                self.faults = []
                await self.json(Problem(500, fault.message, "InternalServerError").body, 500)
                return False
            elif fault.kind in ("cut", "reset", "garbage"):
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                await self.send({"type": "http.response.start", "status": 200, "headers": headers})
                await self.send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                # Let the first half leave: a reset throws away what is still buffered here.
                await asyncio.sleep(0.02)
                self._cut_with(_GARBAGE if fault.kind == "garbage" else b"", reset=fault.kind == "reset")
        return True


class Events:
    """The events of a reply that has begun.

    Args:
        exchange: whose reply.
        error: makes an error event with this message, and whatever ends a stream after one.
        text: makes an event with this text.
    """

    def __init__(self, exchange: Exchange, error: Callable[[str], bytes], text: Callable[[str], bytes]) -> None:
        self._exchange = exchange
        self._send = exchange.send
        self._error = error
        self._text = text
        self._sent = 0
        self._faults = [f for f in exchange.faults if f.kind in _BY_EVENT]
        kinds = {f.kind: f for f in exchange.faults}
        self._crlf = "crlf" in kinds
        self._comment = "comment" in kinds
        self._dribble = (kinds["dribble"].bytes or 3) if "dribble" in kinds else 0
        self._plain = not (self._faults or self._crlf or self._comment or self._dribble)

    async def event(self, data: bytes) -> None:
        """Send one event, ``data`` being all its lines and the empty one."""
        if not self._plain:
            await self._faulty(data)
        else:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def close(self) -> None:
        """End the reply well."""
        if self._faults:
            await self._due()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _faulty(self, data: bytes) -> None:
        await self._due()
        self._sent += 1
        await self._put(b": keep-alive\n\n" + data if self._comment else data)

    async def _put(self, data: bytes) -> None:
        if self._crlf:
            data = data.replace(b"\n", b"\r\n")
        width = self._dribble or len(data)
        for at in range(0, len(data), width):
            await self._send({"type": "http.response.body", "body": data[at : at + width], "more_body": True})
            if self._dribble:
                await asyncio.sleep(0)

    async def _due(self) -> None:
        """Apply the faults whose moment has come: so many events are out, and the next one is about to be."""
        for fault in list(self._faults):
            if (fault.after_events or 0) > self._sent:
                continue
            self._faults.remove(fault)
            if fault.kind == "stall":
                await self._exchange.pause(fault.seconds or 0.0)
            elif fault.kind == "giant":
                await self._put(self._text("x" * (fault.bytes or 2**20)))
            elif fault.kind in ("error_first", "error_event"):
                await self._put(self._error(fault.message))
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                raise Over
            else:
                await asyncio.sleep(0.02)  # what was written before must have left, or a reset throws it away
                if fault.kind == "crash":
                    die(fault.exit_code)
                self._exchange.connection.write_raw(_GARBAGE if fault.kind == "garbage" else b"")
                self._exchange.connection.cut(reset=fault.kind == "reset")
                raise Over
