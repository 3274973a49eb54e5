"""Where a host is: a name that is slow to look up is slow for nobody else, and for nobody who knew it."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from headgate import names
from headgate.names import FRESH_S, KNOWN_S, PATIENCE_S, Host
from headgate.pool.fetch import OUR_SHORTAGES

Found = list[tuple[Any, ...]]


class Resolver:
    """Takes the place of the system's: silent until it is told what to say."""

    def __init__(self) -> None:
        self.asked = 0
        self._says = threading.Event()
        self._answer: Found | OSError = []

    def says(self, *answer: str) -> None:
        self._answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 0)) for number in answer]
        self._says.set()

    def fails(self, number: int) -> None:
        self._answer = socket.gaierror(number, "it failed")
        self._says.set()

    def is_silent(self) -> None:
        self._says.clear()

    def __call__(self, *_: Any, **__: Any) -> Found:
        self.asked += 1
        assert self._says.wait(20)
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(names, "PATIENCE_S", 20.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settled(host: Host) -> None:
    """Once its lookup, if there is one, has ended."""
    if host._pending is not None:
        await asyncio.wait({host._pending})


def test_a_name_has_one_lookup_at_a_time_whoever_gives_up_on_it(resolver: Resolver) -> None:
    """Each look at the engine began one more, on one of four threads that all engines shared."""

    async def scenario() -> None:
        host = Host("engine.test")
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(host.numbers(), 0.001)
        resolver.says("10.0.0.1", "10.0.0.1", "10.0.0.2")
        assert await host.numbers() == ("10.0.0.1", "10.0.0.2")
        assert resolver.asked == 1

    asyncio.run(scenario())


def test_what_is_known_is_used_while_the_name_server_is_silent(resolver: Resolver) -> None:
    async def scenario() -> None:
        clock = Clock()
        host = Host("engine.test", clock=clock)
        resolver.says("10.0.0.1")
        await host.numbers()
        resolver.is_silent()
        clock.now += FRESH_S
        assert await host.numbers() == ("10.0.0.1",)
        clock.now += PATIENCE_S
        assert await host.numbers() == ("10.0.0.1",)  # with no wait: that lookup was waited for already
        resolver.says("10.0.0.2")
        await settled(host)
        assert await host.numbers() == ("10.0.0.2",)

    asyncio.run(scenario())


@pytest.mark.usefixtures("patient")
def test_an_engine_that_has_moved_is_found_where_it_is_now(resolver: Resolver) -> None:
    """For a minute the first request after a pause went to its old address, which may be another's by then."""

    async def scenario() -> None:
        clock = Clock()
        host = Host("engine.test", clock=clock)
        resolver.says("10.0.0.1")
        await host.numbers()
        resolver.says("10.0.0.2")
        clock.now += KNOWN_S / 2
        assert await host.numbers() == ("10.0.0.2",)

    asyncio.run(scenario())


def test_a_name_that_cannot_be_one_is_an_error_at_once() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(OSError, match="can't be the name of a host"):
                await Host("a..b").numbers()

    asyncio.run(scenario())


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("number", "is_kept"), [(socket.EAI_AGAIN, True), (socket.EAI_NONAME, False)])
def test_a_name_that_is_gone_is_not_kept_and_one_that_cannot_be_asked_for_is(
    resolver: Resolver, number: int, is_kept: bool
) -> None:
    async def scenario() -> None:
        clock = Clock()
        host = Host("engine.test", clock=clock)
        resolver.says("10.0.0.1")
        await host.numbers()
        resolver.fails(number)
        clock.now += FRESH_S
        if is_kept:
            assert await host.numbers() == ("10.0.0.1",)
            clock.now += KNOWN_S
        with pytest.raises(socket.gaierror):
            await host.numbers()

    asyncio.run(scenario())


def test_a_thread_that_cannot_be_had_is_a_shortage_of_ours_and_what_is_known_is_used(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        clock = Clock()
        host = Host("engine.test", clock=clock)
        resolver.says("10.0.0.1")
        await host.numbers()
        monkeypatch.setattr(threading.Thread, "start", start)
        clock.now += FRESH_S
        assert await host.numbers() == ("10.0.0.1",)
        clock.now += KNOWN_S
        with pytest.raises(OSError, match="can't start new thread") as refused:
            await host.numbers()
        assert refused.value.errno in OUR_SHORTAGES

    asyncio.run(scenario())


@pytest.mark.parametrize("number", ["127.0.0.1", "::1"])
def test_a_number_is_not_looked_up(resolver: Resolver, number: str) -> None:
    assert asyncio.run(Host(number).numbers()) == (number,)
    assert resolver.asked == 0


def test_every_address_of_a_name_is_tried(resolver: Resolver) -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        resolver.says("127.0.0.2", "127.0.0.1")
        transport, _ = await Host("engine.test").connect(asyncio.Protocol, port, None)
        transport.close()
        resolver.says("127.0.0.2")
        with pytest.raises(ConnectionRefusedError):
            await Host("engine.test").connect(asyncio.Protocol, port, None)
        resolver.says()
        with pytest.raises(OSError, match=r"engine\.test has no address"):
            await Host("engine.test").connect(asyncio.Protocol, port, None)
        server.close()

    asyncio.run(scenario())
