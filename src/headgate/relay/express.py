"""The quick way of events, where the gateway is compiled: from the engine's socket to the client's, in C.

Nearly all that passes are events that look like the last one but for their text. ``upstream`` passes such an event on
unparsed, in a few lines of Python; what costs is that each stream's turn finds the memory cold that those lines, the
loop and both transports touch. ``_express`` does the same with some hundred bytes for each stream
(docs/decisions/014-express.md). Everything that is not such an event comes back to ``Exchange``, in its place.

Where it was not compiled there are no lanes, and nothing else is different.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

try:
    from headgate.relay import _express
except ImportError:
    _is_there = False
else:
    _is_there = True

FILES = int(_is_there)
"""How many a lane keeps open: a duplicate of the client's socket."""


class Lanes:
    """The lanes of one loop, and what it watches for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._express: _express.Express | None = None

    def open(
        self,
        engine: asyncio.Transport,
        client: asyncio.Transport,
        received: Callable[[bytes], object],
        over: Callable[[], object],
    ) -> _express.Lane | None:
        """From ``engine`` to ``client``, for ``engine`` to be read by; None where either is closed or no plain socket.

        Its transport must not read while the lane is open, nor be closed before the lane is.
        """
        if not _is_there or not (_is_plain(engine) and _is_plain(client)):
            return None
        try:
            if self._express is None:
                express = _express.Express()
                self._loop.add_reader(express.fileno(), express.run)
                self._express = express
            ends = engine.get_extra_info("socket").fileno(), client.get_extra_info("socket").fileno()
            return self._express.open(*ends, received, over, client.write, _left(client))
        except OSError:  # there are too many files
            return None

    def close(self) -> None:
        """No lane is open any more."""
        express, self._express = self._express, None
        if express is not None:
            self._loop.remove_reader(express.fileno())


def _left(client: asyncio.Transport) -> Callable[[], int]:
    """How much it holds. One that is closing counts as never empty: what it held may be lost, and nothing may follow.

    It loses that before anybody is told, and the lane's own duplicate of its socket is open still.
    """
    held, is_closing = client.get_write_buffer_size, client.is_closing
    return lambda: 1 if is_closing() else held()


def _is_plain(transport: asyncio.Transport) -> bool:
    """Whether its socket carries what is written to it as it is. A closing one's number may be another's by now."""
    return (
        not transport.is_closing()
        and transport.get_extra_info("socket") is not None
        and transport.get_extra_info("sslcontext") is None
    )
