"""A client that can leave in every way: one request on a socket of its own, its answer read as far as one wants.

Raw sockets, because no HTTP library half-closes, resets, or reads slowly on purpose; TLS is laid over them, so that
who leaves can do so in each of these ways there too. What an answer means to a person's SDK (did it end well? what text
came?) is said here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import httptools
import msgspec

Way = Literal["close", "half-close", "reset"]
WAYS: tuple[Way, ...] = ("close", "half-close", "reset")


class Address(msgspec.Struct, frozen=True):
    """Where a gateway listens, and what is before its routes."""

    host: str
    port: int
    prefix: str = ""
    tls: bool = False


@cache
def _trusted() -> ssl.SSLContext:
    """Reading the certificates takes 30 ms, and a crowd of clients is to come at once."""
    return ssl.create_default_context()


class _Tls:
    """The client's side of TLS over bytes that somebody else carries."""

    def __init__(self, host: str) -> None:
        self.come, self.to_go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.plain = _trusted().wrap_bio(self.come, self.to_go, server_hostname=host)

    def write(self, data: bytes) -> bytes:
        """What has to go out for it."""
        self.plain.write(data)
        return self.to_go.read()

    def read(self, most: int) -> bytes | None:
        """What has come; None where more has to come first."""
        try:
            return self.plain.read(most)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def is_open(self) -> bool:
        """Whether hands are shaken. Raises OSError."""
        try:
            self.plain.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


class Reply:
    """An answer as far as it has come. Fed by httptools' parser.

    Attributes:
        complete: its end came as HTTP has it.
        broken: how it ended instead.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.broken: str | None = None
        self.parser = httptools.HttpResponseParser(self)

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    # What a client makes of it.

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.complete or self.broken is not None

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def events(self) -> list[bytes]:
        """The data of its events so far."""
        frames = bytes(self.body).replace(b"\r\n", b"\n").split(b"\n\n")[:-1]
        lines = (line for frame in frames for line in frame.split(b"\n"))
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    @property
    def begun(self) -> bool:
        """Something of the answer itself is here."""
        return self.status == 200 and b"data:" in self.body

    def chunks(self) -> list[dict[str, Any]]:
        """Its events, or itself, as JSON; what is none is left out."""
        found = []
        for raw in self.events if self.is_stream else [bytes(self.body)]:
            try:
                value = json.loads(raw)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
        return found

    @property
    def text(self) -> str:
        """What its first choice says."""
        parts = []
        for chunk in self.chunks():
            for choice in (chunk.get("choices") or [])[:1]:
                said = choice.get("delta") or choice.get("message") or {}
                parts.append(said.get("content") or "")
        return "".join(parts)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that it is, or that came in its stream."""
        for chunk in self.chunks():
            found = chunk.get("error")
            if isinstance(found, dict):
                return found
            if found is not None or chunk.get("object") == "error":
                return chunk
        return None

    @property
    def ended_well(self) -> bool:
        """A client takes this for a whole answer: it has nothing to tell by that it isn't."""
        return self.status == 200 and self.complete and self.error is None

    @property
    def refused(self) -> bool:
        """Told to come back: a whole answer that says so."""
        return self.status in (429, 503) and self.complete

    @property
    def in_short(self) -> str:
        """One word or two for a table."""
        if self.broken:
            return f"{self.status}, {self.broken}" if self.status else self.broken
        return str(self.status) if self.complete else "no end"


class Caller:
    """One request. Nothing here raises for what a gateway does: it is all in ``reply``."""

    def __init__(self, sock: socket.socket, tls: _Tls | None = None) -> None:
        self._socket = sock
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self.reply = Reply()
        self.sent_at = self.first_at = self.ended_at = 0.0

    @classmethod
    async def connect(cls, address: Address, *, receive_bytes: int | None = None, within_s: float = 10.0) -> Caller:
        """A connection. Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(within_s):
                await loop.sock_connect(sock, (address.host, address.port))
                caller = cls(sock, _Tls(address.host) if address.tls else None)
                await caller._shake_hands()
        except BaseException:
            sock.close()
            raise
        return caller

    async def _shake_hands(self) -> None:
        tls = self._tls
        while tls is not None:
            is_open = tls.is_open()
            await self._loop.sock_sendall(self._socket, tls.to_go.read())
            if is_open:
                return
            await self._take(tls, 65536)

    async def _take(self, tls: _Tls, most: int) -> None:
        if data := await self._loop.sock_recv(self._socket, most):
            tls.come.write(data)
        else:
            tls.come.write_eof()

    async def send(self, request: bytes) -> Caller:
        self.sent_at = self._loop.time()
        try:
            await self._loop.sock_sendall(self._socket, request if self._tls is None else self._tls.write(request))
        except OSError as error:
            self._broke(f"connection {_word(error)}")
        return self

    async def until(self, what: Callable[[Reply], bool], within_s: float) -> bool:
        """Read until this is so of the answer, or it has ended, or time is up; whether it is so."""
        try:
            async with asyncio.timeout(within_s):
                while not what(self.reply) and not self.reply.ended:
                    await self.read()
        except TimeoutError:
            pass
        return what(self.reply)

    async def whole(self, within_s: float) -> Reply:
        """The answer, read to its end if that comes in time."""
        await self.until(lambda reply: reply.ended, within_s)
        return self.reply

    async def read(self, most: int = 65536) -> None:
        """What comes next."""
        reply = self.reply
        try:
            data = await self._receive(most)
        except OSError as error:
            self._broke(_word(error))
            return
        if not data:
            self._eof()
            return
        try:
            reply.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broke(f"not HTTP ({error})")
        if not self.first_at and reply.begun:
            self.first_at = self._loop.time()
        if reply.ended and not self.ended_at:
            self.ended_at = self._loop.time()

    async def _receive(self, most: int) -> bytes:
        tls = self._tls
        if tls is None:
            return await self._loop.sock_recv(self._socket, most)
        while (data := tls.read(most)) is None:
            await self._take(tls, most)
        return data

    def leave(self, way: Way) -> None:
        """Go, with the answer unread."""
        try:
            if way == "half-close":
                self._socket.shutdown(socket.SHUT_WR)
                return
            if way == "reset":
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the gateway was quicker to close
        self.close()

    def close(self) -> None:
        """Close it, once."""
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            # A read that was given up takes itself off the loop a turn later, when the number may be another socket's.
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        self._socket.close()

    def _eof(self) -> None:
        headers = self.reply.headers
        sized = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
        if self.reply.status and not sized:
            self.reply.complete = True  # such a body ends with its connection
            self.ended_at = self._loop.time()
        else:
            self._broke("cut short" if self.reply.status else "closed without an answer")

    def _broke(self, how: str) -> None:
        self.reply.broken = self.reply.broken or how
        self.ended_at = self.ended_at or self._loop.time()


def _word(error: OSError) -> str:
    return "reset" if isinstance(error, ConnectionResetError) else (error.strerror or str(error)).lower()


def request(address: Address, body: dict[str, Any], key: str | None, path: str = "/v1/chat/completions") -> bytes:
    """The bytes of a POST."""
    raw = json.dumps(body).encode()
    lines = [
        f"POST {address.prefix}{path} HTTP/1.1",
        f"host: {f'[{address.host}]' if ':' in address.host else address.host}:{address.port}",
        "content-type: application/json",
        f"content-length: {len(raw)}",
        *([f"authorization: Bearer {key}"] if key else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw
