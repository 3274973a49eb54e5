"""A look at an engine ends in an answer, or in one of two ways of having none."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading

import pytest
import uvloop

from headgate.pool.launchers import LOOPBACK, Address
from headgate.pool.probe import Probe, Slow, Unreachable

LOOKS = 1500
"""Of which some dozens hit the wrong moment."""


def test_a_reset_at_any_moment_is_an_engine_that_cannot_be_reached() -> None:
    """A library's client asked a socket that was gone: an AttributeError, for which the engine was killed."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]

    def reset() -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                connection, _ = listener.accept()
                with connection:
                    for _ in range(number % 100 * 20):
                        pass  # a little later each time, so that one is just in the wrong moment
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def look() -> None:
        probe = Probe(Address(LOOPBACK, port), answer_s=5.0)
        for _ in range(LOOKS):
            with pytest.raises((Unreachable, Slow)):
                await probe.metrics()

    resetting = threading.Thread(target=reset)
    resetting.start()
    try:
        uvloop.run(look())
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        resetting.join()
