"""uvicorn's httptools connection, with two things more: it tells when it is lost, and lets faults at its
transport.

Separate because it is the only place that touches uvicorn's insides.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTION = "headgate.simulator.connection"


class Connection(HttpToolsProtocol):
    """One client connection; a request finds it in its scope under ``CONNECTION``.

    Attributes:
        whole_at: when the last request had come in whole, by ``time.monotonic``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lost = False
        self.when_lost: dict[Callable[[], None], None] = {}
        self.whole_at = 0.0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[CONNECTION] = self

    def on_message_complete(self) -> None:
        self.whole_at = time.monotonic()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = True
        told, self.when_lost = self.when_lost, {}
        for tell in told:
            tell()

    def closed_by_peer(self) -> bool:
        """Whether the client has closed its end, though the event loop may not have come to it yet."""
        sock = self.transport.get_extra_info("socket")
        if self.lost or sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def write_raw(self, data: bytes) -> None:
        """Put bytes on the wire that no HTTP made."""
        self.transport.write(data)

    def cut(self, *, reset: bool) -> None:
        """End the connection here, after what was written; with ``reset`` by RST, and what waits is lost."""
        if reset:
            sock = self.transport.get_extra_info("socket")
            # uvloop's socket object refuses some calls: a duplicate of the same connection takes the option.
            with socket.socket(fileno=socket.dup(sock.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()
