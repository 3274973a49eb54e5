"""One GET, on a connection of its own, read to its end: how an engine is looked at.

Every engine is looked at each second, for as long as the gateway runs. With httpx, which speaks for the commands, that
was two thirds of the 7 ms of CPU that an idle gateway took in a second, as much as 200 events of a stream, and twice
that while there was work (``models`` and ``metrics``). Here it is what asyncio and httptools need.

It ends at an answer, whatever its status; what that means is ``probe``'s part. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, cast

import httptools

from headgate.names import Host

if TYPE_CHECKING:
    from headgate.pool.launchers import Address

MOST_BYTES = 64 * 1024 * 1024
"""An answer longer than this is none: a vLLM's metrics with thousands of series have one."""

OUR_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Unreachable(Exception):
    """It refuses, hangs up, or answers something that is not what was asked for."""


class Slow(Exception):
    """No answer in time; a busy engine does that, too."""


class Unasked(Slow):
    """It could not be asked, for want of something of ours: of the engine that says nothing."""


class Answer(NamedTuple):
    """A whole one. ``content_type`` is empty where it says none."""

    status: int
    content_type: str
    body: bytes


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes 30 ms: once is enough."""
    return ssl.create_default_context()


async def get(
    address: Address,
    path: str,
    *,
    host: Host | None = None,
    api_key: str | None = None,
    connect_s: float,
    answer_s: float,
) -> Answer:
    """What ``address`` answers at ``path``; to be awaited in a task. ``host``: its own, with what is known of it.

    Raises:
        Unreachable, Slow, Unasked: there is no answer, or none within ``connect_s`` and ``answer_s``.
    """
    loop = asyncio.get_running_loop()
    reading = _Reading(loop, _request(address, path, api_key))
    transport: asyncio.BaseTransport | None = None
    host = host or Host(address.host)
    try:
        async with asyncio.timeout(connect_s):
            transport, _ = await host.connect(lambda: reading, address.port, _tls() if address.tls else None)
        async with asyncio.timeout(answer_s):
            return await reading.answer
    except TimeoutError:
        raise Slow(f"GET {path} is not answered in time") from None
    except OSError as error:
        why = Unasked if error.errno in OUR_SHORTAGES else Unreachable
        raise why(f"GET {path}: {_said(error)}") from None
    finally:
        if transport is not None:
            cast("asyncio.Transport", transport).abort()


def _said(error: OSError) -> str:
    """In words for a person: without the number, and without what asyncio says of each of several addresses."""
    return error.strerror or str(error) or type(error).__name__


def _request(address: Address, path: str, api_key: str | None) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    key = b"authorization: Bearer %b\r\n" % api_key.encode() if api_key else b""
    return b"GET %b HTTP/1.1\r\nhost: %b:%d\r\naccept: */*\r\n%bconnection: close\r\n\r\n" % (
        (address.prefix + path).encode(),
        host.encode("idna"),
        address.port,
        key,
    )


class _Reading(asyncio.Protocol):
    """A connection on which one answer comes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, request: bytes) -> None:
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._content_type = ""
        self._ends_with_connection = True
        self._parts: list[bytes] = []
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"its answer is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        # It refers to us: without this both would stay in memory until the collector looks.
        self._parser = None  # type: ignore[assignment]
        if self._status and self._ends_with_connection and exc is None:
            self._end()
        else:
            self._fail(str(exc or "it closed the connection without a whole answer"))

    # What the parser finds.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._content_type = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # else it is an interim answer, and the real one follows
            self._status = status

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._bytes += len(body)
        if self._bytes > MOST_BYTES:
            self._fail(f"its answer is longer than {MOST_BYTES} bytes")

    def on_message_complete(self) -> None:
        if self._status:
            self._end()

    def _end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(self._status, self._content_type, b"".join(self._parts)))

    def _fail(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionError(why))
