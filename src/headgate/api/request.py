"""One request to an engine on its connection: what has come of its body, and how far its answer has gone.

Stands where uvicorn's own protocol has its ``RequestResponseCycle``, with the names that it asks that for, and knows no
ASGI. Who answers is a ``Road``; requests that have none go uvicorn's way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headgate.api.connection import Connection

Headers = list[tuple[bytes, bytes]]

_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")


def own_id(headers: Headers) -> str | None:
    """The caller's own id of this request; None where it gave none, or one that can't be kept."""
    for name, value in headers:
        if name == b"x-request-id":
            return kept_id(value)
    return None


def kept_id(value: bytes) -> str | None:
    """A caller's ``x-request-id``; None where it can't be kept."""
    return value.decode("latin-1") if _ID.match(value) else None


class Request:
    """The request whose head ``connection`` has just read.

    Attributes:
        cancel: ends the answering of it; set when that begins.
        broken: see ``Connection.broken``.
    """

    __slots__ = (
        *("__weakref__", "_flow", "body", "cancel", "default_headers", "disconnected", "headers", "keep_alive"),
        *("message_event", "more_body", "query", "response_complete", "response_started", "scope", "transport"),
        "waiting_for_100_continue",
    )

    def __init__(self, connection: Connection, query: bytes, *, keep_alive: bool) -> None:
        self.scope = connection.scope  # uvicorn makes one for each head; here it only says which this is
        self.headers: Headers = connection.headers
        self.query = query
        self.transport = connection.transport
        self._flow = connection.flow
        self.default_headers = connection.server_state.default_headers
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = connection.expect_100_continue
        self.cancel: Callable[[], object]
        self.body = bytearray()
        self.more_body = True
        self.message_event = asyncio.Event()
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    async def part(self) -> bytes | None:
        """What has come of the body since the last call, or comes next; None where the client has left."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected:
            self._flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected:
            return None
        part, self.body = bytes(self.body), bytearray()
        return part


Road = Callable[["Connection", Request], Coroutine[Any, Any, None]]
