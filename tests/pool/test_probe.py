"""A look at an engine ends in an answer, or in one of two ways of having none."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from headgate.pool.health import SLOW_LOOKS, Health, Pace
from headgate.pool.launchers import LOOPBACK, Address, Launch
from headgate.pool.probe import Probe, Slow, Unasked, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextlib.contextmanager
def no_file_may_be_opened() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free, and so the first that is not
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_look_for_which_no_file_may_be_opened_says_nothing_of_the_engine() -> None:
    """A crowd of clients took the last file, and for that an engine was killed that was well, and given up on."""
    launch = Launch(kind="vllm", address=Address(LOOPBACK, 9), argv=("vllm",))

    async def look() -> None:
        health = Health(launch, clock=time.monotonic, in_flight=lambda: 0, relayed=lambda: 0, pace=Pace())
        assert await health.look(closely=False) is False, "nobody is there"
        with no_file_may_be_opened():
            with pytest.raises(Unasked):
                await Probe(launch.address, answer_s=5.0).metrics()
            assert {await health.look(closely=True) for _ in range(SLOW_LOOKS + 1)} == {None}
            assert "Too many open files" in str(health.status()["trouble"])
            assert not await health.is_ready()
        assert health.silent_s == 0

    uvloop.run(look())


def test_one_look_that_was_slow_is_no_silence_however_long_the_machine_stood_still() -> None:
    """A look was under way when a gateway was stopped for a minute: an engine that had loaded for 20 was killed."""
    now_s = 0.0

    async def looks() -> None:
        nonlocal now_s
        with socket.create_server((LOOPBACK, 0)) as silent:
            launch = Launch(kind="vllm", address=Address(LOOPBACK, silent.getsockname()[1]), argv=("vllm",))
            pace = Pace(answer_s=0.001)
            health = Health(launch, clock=lambda: now_s, in_flight=lambda: 0, relayed=lambda: 0, pace=pace)
            for _ in range(SLOW_LOOKS):
                assert health.silent_s == 0.0
                assert not await health.is_ready()
                now_s += 70.0
            assert health.silent_s == SLOW_LOOKS * 70.0

    uvloop.run(looks())
