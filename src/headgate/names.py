"""Where a host is, so that a name which is slow to look up costs nobody but its own engine anything.

The event loop looks names up on four threads for the whole process, and a lookup that was given up on holds its thread
for as long as the resolver takes: one engine whose name server didn't answer, looked at every two seconds, took all
four within ten, and no other engine could be reached by name. Here a name has one lookup at a time, on a thread of its
own, and what is known of it is used where the next one takes long.

It ends at a connection; who makes one, and what it is for, is the relay's and the pool's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Protocol = TypeVar("Protocol", bound=asyncio.BaseProtocol)

FRESH_S = 1.0
"""After so long a name is looked up anew when it is wanted."""
PATIENCE_S = 0.25
"""So long its lookup is waited for though an answer is known: the engine may have moved, and another be there now."""
KNOWN_S = 60.0
"""For so long an answer is used while the name server is silent, asks to be asked again later, or can't be asked."""


class Host:
    """A name, or a number, which needs no looking up."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._is_number = _is_number(name)
        self._found: tuple[str, ...] = (name,) if self._is_number else ()
        self._found_s = float("-inf")
        self._pending: asyncio.Future[tuple[str, ...]] | None = None
        self._asked_s = float("-inf")

    async def connect(
        self, protocol: Callable[[], Protocol], port: int, tls: ssl.SSLContext | None
    ) -> tuple[asyncio.BaseTransport, Protocol]:
        """A connection to the first of its addresses that takes one.

        Raises:
            OSError: there is none.
        """
        refused: OSError | None = None
        for number in await self.numbers():
            try:
                return await asyncio.get_running_loop().create_connection(
                    protocol, number, port, ssl=tls, server_hostname=self.name if tls else None
                )
            except OSError as error:
                refused = refused or error
        raise refused or OSError(f"{self.name} has no address")

    async def numbers(self) -> tuple[str, ...]:
        """Its addresses, the best first.

        Raises:
            OSError: it has none, or nobody can tell now.
        """
        now_s = self._clock()
        age_s = now_s - self._found_s
        if self._is_number or age_s < FRESH_S:
            return self._found
        if self._pending is None:
            self._pending, self._asked_s = self._look_up(), now_s
        pending = self._pending
        if self._found and age_s < KNOWN_S:
            await asyncio.wait({pending}, timeout=max(0.0, self._asked_s + PATIENCE_S - now_s))
            if self._found:  # the new ones, where they are known by now
                return self._found
        return await asyncio.shield(pending)

    def _look_up(self) -> asyncio.Future[tuple[str, ...]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[str, ...]] = loop.create_future()
        answer.add_done_callback(self._looked_up)

        def look() -> None:
            found: tuple[str, ...] | OSError
            try:
                answers = socket.getaddrinfo(self.name, None, type=socket.SOCK_STREAM)
                found = tuple(dict.fromkeys(str(address[0]) for *_, address in answers))
            except OSError as error:
                found = error
            except UnicodeError:  # nothing that may be asked for
                found = OSError(f"{self.name} can't be the name of a host")
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, found)

        def tell(found: tuple[str, ...] | OSError) -> None:
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        try:
            threading.Thread(target=look, name=f"lookup of {self.name}", daemon=True).start()
        except RuntimeError as error:  # a limit of processes, say: a shortage of ours, and no fault of the engine's
            answer.set_exception(OSError(errno.ENOMEM, str(error)))
        return answer

    def _looked_up(self, answer: asyncio.Future[tuple[str, ...]]) -> None:
        self._pending = None
        error = answer.exception()
        if error is None:
            self._found, self._found_s = answer.result(), self._clock()
        elif isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
            self._found = ()  # it has none any more, by the name server's word


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
