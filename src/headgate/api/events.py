"""``GET /status/events``: the picture of ``/status``, told once a second to whoever watches.

A picture is made and encoded once for all viewers, and not at all while nobody watches. There may be so many viewers;
one that doesn't take what it is sent is dropped, and may come again; all are sent away at the drain, so that the server
can end. Separate from the other routes because these answers live on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headgate.api.auth import Keys
from headgate.api.connection import Connection
from headgate.api.document import also, with_key_or_password
from headgate.errors import Reason, Refusal

VIEWERS_MAX = 64
BEHIND_MAX = 5
"""Pictures that may wait for one viewer, behind what its connection has taken already."""
COME_AGAIN_MS = 2000

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Viewers:
    """Those who watch now.

    Args:
        most: how many may.
    """

    def __init__(self, most: int = VIEWERS_MAX) -> None:
        self._most = most
        self._viewers: dict[asyncio.Queue[bytes], Callable[[], object]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._viewers)

    def join(self, drop: Callable[[], object]) -> asyncio.Queue[bytes]:
        """What the viewer is sent from now on; an empty picture is the end. ``drop`` cuts it off.

        Raises:
            Refusal: there are too many already, or the gateway is shutting down.
        """
        if self._closed:
            raise Refusal(Reason.DRAINING, "The gateway is shutting down; GET /status still tells how it goes.")
        if len(self._viewers) >= self._most:
            raise Refusal(Reason.SLOTS_BUSY, f"{self._most} viewers watch already.", retry_after_s=5.0)
        pictures: asyncio.Queue[bytes] = asyncio.Queue(BEHIND_MAX)
        self._viewers[pictures] = drop
        return pictures

    def leave(self, pictures: asyncio.Queue[bytes]) -> None:
        self._viewers.pop(pictures, None)

    def publish(self, picture: bytes) -> None:
        """Send all of them this, and drop those who are too far behind."""
        for pictures, drop in list(self._viewers.items()):
            if pictures.full():
                self.leave(pictures)
                drop()
            else:
                pictures.put_nowait(picture)

    def close(self, last: Callable[[], bytes]) -> None:
        """Send all of them a last picture and then away; nobody may join any more."""
        self._closed = True
        if self._viewers:
            self.publish(last())
            self.publish(b"")


def event(picture: dict[str, object]) -> bytes:
    """A picture as an event."""
    return b"event: status\ndata: %b\n\n" % msgspec.json.encode(picture)


class _Watching(Response):
    """The answer to one viewer, for as long as it stays."""

    def __init__(self, viewers: Viewers, first: Callable[[], bytes]) -> None:
        super().__init__()
        self._viewers = viewers
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["headgate.connection"]
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        pictures = self._viewers.join(connection.transport.abort)
        connection.on_gone = task.cancel
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            picture = b"retry: %d\n%b" % (COME_AGAIN_MS, self._first())
            while picture:
                await send({"type": "http.response.body", "body": picture, "more_body": True})
                picture = await pictures.get()
            await send({"type": "http.response.body", "body": b""})
        finally:
            connection.on_gone = None
            self._viewers.leave(pictures)


def router(viewers: Viewers, first: Callable[[], dict[str, object]], keys: Keys, *, closed: bool) -> APIRouter:
    """The route. ``first`` is the picture with all that is remembered; ``closed``: it needs a key."""
    routes = APIRouter()

    looking = with_key_or_password(wanted=closed)

    @routes.get(
        "/status/events",
        openapi_extra=also(looking, 429, 503),
        summary="The picture, live",
        tags=["operation"],
        response_class=Response,
    )
    async def events(request: Request) -> Response:
        """Server-sent events named `status`: at first `/status?recent=1`, then each second `/status` with the newest
        `point` of what `recent` holds. It ends when the gateway shuts down."""
        if closed:
            keys.require_any(request.scope["headers"])
        return _Watching(viewers, lambda: event(first()))

    return routes
