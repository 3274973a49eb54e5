"""Those who watch: all are told the same, the slow are dropped, all leave at the drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from headgate.api.auth import Keys
from headgate.api.events import BEHIND_MAX, Viewers, event, router
from headgate.errors import Reason, Refusal
from tests.api.test_connection import Server, run

REQUEST = b"GET /status/events HTTP/1.1\r\nhost: gateway\r\n\r\n"


def taken(pictures: asyncio.Queue[bytes]) -> Iterator[bytes]:
    while not pictures.empty():
        yield pictures.get_nowait()


def test_every_viewer_is_told_the_same_in_order() -> None:
    viewers = Viewers()
    first, second = viewers.join(print), viewers.join(print)
    for picture in (b"a", b"b"):
        viewers.publish(picture)
    assert list(taken(first)) == list(taken(second)) == [b"a", b"b"]
    viewers.leave(first)
    viewers.publish(b"c")
    assert (list(taken(first)), list(taken(second))) == ([], [b"c"])


def test_viewer_that_falls_behind_is_dropped_and_the_others_stay() -> None:
    viewers = Viewers()
    dropped: list[str] = []
    viewers.join(lambda: dropped.append("slow"))
    quick = viewers.join(lambda: dropped.append("quick"))
    for _ in range(BEHIND_MAX + 1):
        viewers.publish(b"x")
        list(taken(quick))
    assert (dropped, len(viewers)) == (["slow"], 1)


def test_one_viewer_too_many_is_told_to_come_back() -> None:
    viewers = Viewers(most=2)
    viewers.join(print)
    second = viewers.join(print)
    with pytest.raises(Refusal) as refused:
        viewers.join(print)
    assert refused.value.reason is Reason.SLOTS_BUSY
    assert refused.value.retry_after_s == 5.0
    viewers.leave(second)
    viewers.join(print)


def test_close_sends_a_last_picture_and_an_end_and_lets_nobody_in() -> None:
    viewers = Viewers()
    pictures = viewers.join(print)
    viewers.close(lambda: b"last")
    assert list(taken(pictures)) == [b"last", b""]
    with pytest.raises(Refusal) as refused:
        viewers.join(print)
    assert refused.value.reason is Reason.DRAINING


def test_nothing_is_made_at_the_close_when_nobody_watches() -> None:
    def never() -> bytes:
        raise AssertionError("a picture for nobody")

    Viewers().close(never)


def test_event_is_one_line_whatever_is_in_it() -> None:
    assert event({"model": "a\n\ndata: b"}) == b'event: status\ndata: {"model":"a\\n\\ndata: b"}\n\n'


class Watched(Server):
    """The route in front of a real socket."""

    def __init__(self, viewers: Viewers) -> None:
        async def unused(*_: Any) -> None:
            return None

        super().__init__(unused)
        self._app = FastAPI()
        self._app.include_router(router(viewers, lambda: {"first": True}, Keys(None, "admin"), closed=False))

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)


async def until(look: Callable[[], bool]) -> None:
    while not look():  # noqa: ASYNC110  nobody tells us; each turn of the loop the server does its part
        await asyncio.sleep(0)


def with_one_viewer(claim: Callable[[Viewers, Server, Any], Awaitable[None]]) -> None:
    async def play() -> None:
        viewers = Viewers()
        async with Watched(viewers) as server:
            client = await server.client(REQUEST)
            await until(lambda: len(viewers) == 1)
            await claim(viewers, server, client)
            client.close()

    run(play)


@pytest.mark.interpreted
def test_viewer_that_leaves_is_forgotten_at_once() -> None:
    async def claim(viewers: Viewers, _: Server, client: Any) -> None:
        client.close()
        await until(lambda: not viewers)

    with_one_viewer(claim)


@pytest.mark.interpreted
def test_reader_that_takes_nothing_is_cut_off_with_little_kept_for_it() -> None:
    """Its kernel takes some, its transport 256 KiB, then ``BEHIND_MAX`` pictures; no more."""

    async def claim(viewers: Viewers, server: Server, _: Any) -> None:
        published = 0
        while viewers:
            viewers.publish(b"x" * 65536)
            published += 1
            for _ in range(10):
                await asyncio.sleep(0)
        await server.lost.wait()
        assert published < 150

    with_one_viewer(claim)


@pytest.mark.interpreted
def test_stream_ends_as_http_has_it_when_the_viewers_are_sent_away() -> None:
    async def claim(viewers: Viewers, _: Server, client: Any) -> None:
        viewers.close(lambda: event({"last": True}))
        seen = b""
        while not seen.endswith(b"\r\n0\r\n\r\n"):
            more = await asyncio.get_running_loop().sock_recv(client, 65536)
            assert more, seen
            seen += more
        assert b'retry: 2000\nevent: status\ndata: {"first":true}' in seen
        assert seen.count(b"event: status") == 2

    with_one_viewer(claim)
