"""``POST /console/burst``: one chat request, so many times at once, for the page.

A browser opens six connections to a host and no more, so a page by itself could never fill a gate. These requests go
the way of all others from the gate on, each with a slot of its own; what comes back is how they fare, not what they
say. Bounded: so many requests, one burst at a time, and it ends with the connection that asked for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headgate import openai
from headgate.api.auth import Keys, require_same_origin
from headgate.api.connection import Connection
from headgate.api.document import describe, refusals, with_key
from headgate.api.generation import ENDPOINTS
from headgate.api.request import Headers
from headgate.call import Call
from headgate.errors import Reason, Refusal
from headgate.flow import Flow
from headgate.keys import Key
from headgate.openai import Dialect
from headgate.relay.reply import FinalEvent, Plan

COUNT_MAX = 32
BODY_BYTES = 64 * 1024
TOLD_EVERY_S = 0.2
CHAT = "/v1/chat/completions"

_TOLD = {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
_CODE = re.compile(rb'"code": ?"([a-z_]+)"')


class Fate(msgspec.Struct):
    """How one of them fares. ``state``: waiting, answering, done, refused, failed."""

    state: str = "waiting"
    queue_ms: float | None = None
    tokens: int = 0
    reason: str | None = None
    retry_after_s: float | None = None


class _Ear:
    """Where one answer goes: it is counted, not kept."""

    on_pause: Callable[[], object] | None = None
    on_resume: Callable[[], object] | None = None

    def __init__(self, fate: Fate) -> None:
        self._fate = fate

    def start(self, status: int, headers: Headers) -> None:
        named = dict(headers)
        self._fate.state = "answering" if status < 400 else "failed"
        self._fate.queue_ms = float(named.get(b"x-headgate-queue-ms", b"0"))
        self._fate.reason = named[b"x-headgate-reason"].decode() if b"x-headgate-reason" in named else None

    def write(self, data: bytes) -> None:
        self._fate.tokens += data.count(b'"choices":[{')
        if b'data: {"error":' in data:
            named = _CODE.search(data)
            self._fate.reason = named[1].decode() if named else None
            self.cut()

    def takes_chunks(self) -> None:
        return None

    def end(self) -> None:
        if self._fate.state == "answering":
            self._fate.state = "done"

    def cut(self) -> None:
        self._fate.state = "failed"
        self._fate.reason = self._fate.reason or Reason.ENGINE_FAILED

    def refuse(self, refusal: Refusal) -> int:
        self._fate.state = "refused"
        self._fate.reason = refusal.reason
        self._fate.retry_after_s = refusal.retry_after_s
        return 429


class Bursts:
    """One burst at a time."""

    def __init__(self, flow: Flow, clock: Callable[[], float]) -> None:
        self._flow = flow
        self._clock = clock
        self._fates: list[Fate] | None = None

    def begin(self, count: int) -> list[Fate]:
        if self._fates is not None:
            raise Refusal(Reason.SLOTS_BUSY, "A burst is under way already.", retry_after_s=5.0)
        self._fates = [Fate() for _ in range(count)]
        return self._fates

    def end(self) -> None:
        self._fates = None

    async def serve(self, fate: Fate, body: bytes, key: Key) -> None:
        """One request, to its end."""
        ear = _Ear(fate)
        asked = openai.read_request(body, required=("messages",))
        plan = Plan(Dialect.OPENAI, streamed=asked.stream, wants_usage=False, final_event=FinalEvent.OFF)
        call = Call(
            route=CHAT,
            target=CHAT.encode(),
            body=body,
            content_type=b"application/json",
            asked=asked,
            plan=plan,
            request_id=self._flow.new_id(),
            key=key.name,
            arrived=self._clock(),
            can_ask_usage=True,
            rank=max(0, key.rank_least),
            rights=key.rights,
        )
        await self._flow.serve(call, ear, ear.refuse)


class _Telling(Response):
    """The answer: how they fare, a line of JSON at each change of a moment, until all have ended."""

    def __init__(self, bursts: Bursts, count: int, body: bytes, key: Key) -> None:
        super().__init__()
        self._bursts = bursts
        self._count = count
        self._request = body
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["headgate.connection"]
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        fates = self._bursts.begin(self._count)
        connection.on_gone = task.cancel
        try:
            headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with asyncio.TaskGroup() as group:
                serving = [group.create_task(self._bursts.serve(fate, self._request, self._key)) for fate in fates]
                told = b""
                while True:
                    ended = all(each.done() for each in serving)
                    line = msgspec.json.encode(fates) + b"\n"
                    if line != told:
                        await send({"type": "http.response.body", "body": line, "more_body": True})
                        told = line
                    if ended:
                        break
                    await asyncio.wait(serving, timeout=TOLD_EVERY_S)
            await send({"type": "http.response.body", "body": b""})
        finally:
            connection.on_gone = None
            self._bursts.end()


def router(bursts: Bursts, keys: Keys) -> APIRouter:
    """The route. It takes the keys that generation takes."""
    routes = APIRouter()
    told = with_key(wanted=not keys.is_open)
    told["requestBody"] = describe(ENDPOINTS[CHAT], needs_key=False)["requestBody"]
    told["responses"] = {**refusals(400, 401, 403, 408, 413, 415, 429), "200": _TOLD}

    @routes.post(
        "/console/burst",
        summary="One chat request so many times at once, for the page",
        tags=["operation"],
        response_class=Response,
        openapi_extra=told,
    )
    async def burst(request: Request, count: Annotated[int, Query(ge=1, le=COUNT_MAX)] = 20) -> Response:
        """Answers a line of JSON at each change: how each of them fares."""
        require_same_origin(request.scope["headers"])
        key = keys.caller(request.scope["headers"])
        body = await _body(request)
        openai.read_request(body, required=("messages",))  # refused once, instead of so many times
        return _Telling(bursts, count, body, key)

    return routes


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(Reason.UNSUPPORTED_MEDIA_TYPE, "`content-type` must be application/json.")
    connection: Connection = request.scope["headgate.connection"]
    body = b""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refusal(Reason.INVALID_REQUEST, "The body did not arrive.")  # nobody reads it
        body += message["body"]
        more = message["more_body"]
        if more and connection.broken is not None:
            raise connection.broken
        if len(body) > BODY_BYTES:
            raise Refusal(Reason.TOO_LARGE, f"The body of a burst's request is larger than {BODY_BYTES} bytes.")
    return body
