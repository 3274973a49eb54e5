"""The ASGI application: everything but what goes to the engines (``generation``), and one OpenAPI document for both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from headgate.api import document, problems
from headgate.api.auth import ANONYMOUS
from headgate.api.generation import ENDPOINTS
from headgate.api.guard import Guard, preflight
from headgate.api.request import Headers, own_id
from headgate.errors import Reason, Refusal
from headgate.openai import Dialect, id_headers, shortened
from headgate.telemetry.metrics import OTHER, Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[Any], Awaitable[None]]

_FOR_ANYBODY = frozenset(("/health", "/ready"))
"""They say nothing that a page of another site couldn't find out by knocking; balancers call them as they like."""

_ENDLESS = "/status/events"
"""What answers GET with no end answers no HEAD: nobody would be told that such an answer is over."""

_HTTP_REASONS = {
    404: Reason.NOT_FOUND,
    401: Reason.UNAUTHORIZED,
    403: Reason.FORBIDDEN,
    413: Reason.TOO_LARGE,
}


class Application:
    """Dispatches a request by its path.

    Args:
        new_id: makes an id for a request whose caller has none.
    """

    def __init__(
        self,
        routers: Sequence[APIRouter],
        metrics: Metrics,
        version: str,
        guard: Guard,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._new_id = new_id
        self._guard = guard
        self._metrics = metrics
        self.fastapi = _fastapi(routers, version, needs_key=not guard.is_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count the status. The route is a template or ``other``, never what was sent."""
        status = 499
        reason = "client_left"
        if _may_be_looked_at(scope):
            scope = {**scope, "method": "GET"}  # for the routes alone: the server sends no body to who asked by HEAD

        async def told(message: Any) -> None:
            nonlocal status, reason
            if message["type"] == "http.response.start":
                status = message["status"]
                named = dict(message["headers"]).get(b"x-headgate-reason")
                reason = "ok" if status < 400 else named.decode() if named else str(_reason(status))
                message = {**message, "headers": [*message["headers"], *self._id(scope)]}
            await send(message)

        try:
            with contextlib.suppress(asyncio.CancelledError):  # the server is going down: nobody reads an answer
                await self._rest(scope, receive, told)
        finally:
            if scope["type"] == "http":
                route = getattr(scope.get("route"), "path", OTHER)
                self._metrics.requests.add((route, OTHER, ANONYMOUS, str(status), reason))

    def _id(self, scope: Scope) -> Headers:
        """What tells a caller the id of its request, an error's above all: its own, or one that it can be asked by."""
        return id_headers(_dialect(scope), own_id(scope["headers"]) or self._new_id())

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["method"] == "OPTIONS" and (told := preflight(self._guard, scope["headers"])) is not None:
                await send({"type": "http.response.start", "status": 204, "headers": told})
                await send({"type": "http.response.body", "body": b""})
                return
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            if host and scope["path"] not in _FOR_ANYBODY and not self._guard.knows(host):
                what = "This gateway is open, and only to its own machine: it isn't called that."
                mend = "If it is (by a proxy before it, say), set CORS_ORIGINS to the page's origin, or keys."
                await _response(Refusal(Reason.FORBIDDEN, f"{what} {mend}"), dialect=_dialect(scope))(
                    scope, receive, send
                )
                return
        if scope["type"] == "http" and (endpoint := ENDPOINTS.get(scope["path"])) is not None:
            scope["route"] = endpoint
            await _response(_takes(scope, "POST"), 405, {"allow": "POST"}, endpoint.dialect)(scope, receive, send)
            return
        await self.fastapi(scope, receive, send)


def _dialect(scope: Scope) -> Dialect:
    endpoint = ENDPOINTS.get(scope["path"])
    return endpoint.dialect if endpoint is not None else Dialect.OPENAI


def _may_be_looked_at(scope: Scope) -> bool:
    """Whether this is a HEAD that is answered as GET would be, as monitors of uptime send it."""
    return bool(scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] != _ENDLESS)


def _reason(status: int) -> Reason:
    """For a status that came without a reason of ours: `/ready` says 503 while no engine is, say."""
    if status >= 500:
        return Reason.ENGINE_UNAVAILABLE if status == 503 else Reason.ENGINE_FAILED
    return _HTTP_REASONS.get(status, Reason.INVALID_REQUEST)


def _fastapi(routers: Sequence[APIRouter], version: str, *, needs_key: bool) -> FastAPI:
    app = FastAPI(
        title="Headgate",
        version=version,
        description="A gateway in front of LLM engines. Generation routes speak OpenAI's API and pass through "
        "what they don't know.",
        redirect_slashes=False,  # the address in a redirect is not the caller's, behind a proxy with TLS
        openapi_url=None,  # the document and its page are routes of ours: ``console.reference``
    )
    for router in routers:
        app.include_router(router)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return _response(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        refusal = Refusal(_reason(error.status_code), f"{error.detail}.")
        headers = dict(error.headers or {})
        if error.status_code == 404:
            refusal = _not_here(app, request.scope)
        elif error.status_code == 405:
            refusal = _takes(request.scope, headers["Allow"])
            if headers["Allow"] == "GET" and request.scope["path"] != _ENDLESS:
                headers["Allow"] = "GET, HEAD"
        return _response(refusal, error.status_code, headers)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return _response(Refusal(Reason.INVALID_REQUEST, f"{first['msg']}.", param=str(first["loc"][-1])))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=version, description=app.description, routes=app.routes)
            for operation in (each for methods in schema["paths"].values() for each in methods.values()):
                if operation["responses"].pop("422", None):  # FastAPI's own word for what is 400 here
                    operation["responses"] |= document.refusals(400)
            generation = {
                path: {"post": document.describe(endpoint, needs_key=needs_key)} for path, endpoint in ENDPOINTS.items()
            }
            schema["paths"] = generation | schema["paths"]
            schemas = schema["components"]["schemas"]
            schemas["Error"] = document.ERROR
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schema["components"]["securitySchemes"] = document.SCHEMES
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _takes(scope: Scope, methods: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, f"{shortened(scope['path'])} takes {methods}, not {scope['method']}.")


def _not_here(app: FastAPI, scope: Scope) -> Refusal:
    """For a path that there isn't. Most who ask for one have set their client's base URL without /v1, or with it twice,
    and the client shows them this sentence."""
    path = scope["path"]
    bare = path.rstrip("/")
    meant = (bare, f"/v1{bare}", bare.removeprefix("/v1"))
    hint = next(
        (f"; did you mean {shortened(each)}?" for each in meant if each != path and _serves(app, scope, each)), "."
    )
    return Refusal(Reason.NOT_FOUND, f"{shortened(path)} is not served here{hint}")


def _serves(app: FastAPI, scope: Scope, path: str) -> bool:
    return path in ENDPOINTS or any(route.matches({**scope, "path": path})[0] is not Match.NONE for route in app.routes)


def _response(
    refusal: Refusal, status: int | None = None, more: Any = None, dialect: Dialect = Dialect.OPENAI
) -> Response:
    own, headers, body = problems.answer(refusal, dialect)
    response = Response(body, status_code=status or own, media_type=None)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    for name, value in (more or {}).items():
        response.headers[name] = value
    return response
