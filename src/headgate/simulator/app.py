"""The ASGI application: which route a request goes to, who may, and what an exception becomes."""

from __future__ import annotations

import hmac
import sys
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from headgate.simulator.answer import ClientLeft
from headgate.simulator.problem import Problem
from headgate.simulator.routes import named, openai, operation, pooling, speech
from headgate.simulator.wire import Exchange, Over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headgate.simulator.metrics import Exposition
    from headgate.simulator.service import Service

    Route = Callable[[Exchange, Service], Awaitable[None]]
    Send = Callable[[Any], Awaitable[None]]


_POSTED: dict[str, Route] = {
    "/v1/chat/completions": openai.chat,
    "/v1/completions": openai.completions,
    "/v1/responses": named.responses,
    "/v1/messages": named.messages,
    "/v1/messages/count_tokens": named.count_tokens,
    "/v1/embeddings": pooling.embeddings,
    "/v1/score": pooling.score,
    "/score": pooling.score,
    "/v1/rerank": pooling.rerank,
    "/v2/rerank": pooling.rerank,
    "/rerank": pooling.rerank,
    "/classify": pooling.classify,
    "/pooling": pooling.pooling,
    "/v1/audio/transcriptions": speech.transcribe,
    "/v1/audio/translations": speech.transcribe,
    "/tokenize": pooling.tokenize,
    "/detokenize": pooling.detokenize,
}
_GOT: dict[str, Route] = {
    "/health": operation.health,
    "/ping": operation.health,
    "/version": operation.version,
    "/load": operation.load,
    "/v1/models": operation.models,
    "/simulator/state": operation.state,
    "/simulator/recent": operation.recent,
}
_DEVELOPMENT: dict[str, Route] = {
    "/sleep": operation.sleep,
    "/wake_up": operation.wake_up,
    "/collective_rpc": operation.collective_rpc,
    "/reset_prefix_cache": operation.reset_prefix_cache,
}


class App:
    """Raw ASGI."""

    def __init__(self, service: Service, exposition: Exposition) -> None:
        self._service = service
        self._tokens = [f"Bearer {key}".encode() for key in service.api_keys]
        self._routes: dict[str, dict[str, Route]] = {path: {"POST": route} for path, route in _POSTED.items()}
        self._routes |= {path: {"GET": route} for path, route in _GOT.items()}
        self._routes["/metrics"] = {"GET": operation.Metrics(exposition)}
        self._routes["/ping"]["POST"] = operation.health
        self._routes["/simulator/state"]["DELETE"] = operation.forget_most
        self._routes["/simulator/faults"] = {
            "GET": operation.show_faults,
            "POST": operation.add_faults,
            "DELETE": operation.clear_faults,
        }
        if service.sleep_mode:
            self._routes |= {path: {"POST": route} for path, route in _DEVELOPMENT.items()}
            self._routes["/is_sleeping"] = {"GET": operation.is_sleeping}

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except (ClientLeft, Over):
            return
        except Problem as problem:
            await self._refuse(exchange, problem)
        except Exception:
            # A fault of the simulator's own must not look like a wanted one: said aloud, then as vLLM would.
            traceback.print_exc(file=sys.stderr)
            await self._refuse(exchange, Problem(500, "the simulator failed", "InternalServerError"))

    async def _answer(self, exchange: Exchange) -> None:
        if self._tokens and exchange.path.startswith("/v1"):
            given = exchange.headers.get(b"authorization", b"")
            if not any(hmac.compare_digest(given, token) for token in self._tokens):
                await exchange.json({"error": "Unauthorized"}, 401)
                return
        methods = self._routes.get(exchange.path)
        if methods is None:
            raise Problem(404, "Not Found", "Not Found")
        route = methods.get(exchange.method)
        if route is None:
            raise Problem(405, "Method Not Allowed", "Method Not Allowed")
        await route(exchange, self._service)

    async def _refuse(self, exchange: Exchange, problem: Problem) -> None:
        body: dict[str, Any] = problem.body
        if exchange.path.startswith("/v1/messages"):
            error = body["error"]
            body = {"type": "error", "error": {"type": error["type"], "message": error["message"]}}
        exchange.faults = []
        await exchange.whole(msgspec.json.encode(body), b"application/json", problem.status)
