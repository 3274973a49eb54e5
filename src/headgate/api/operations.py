"""What an operator and a balancer ask: health, readiness, metrics, status; and the models, answered from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field

from headgate.api.auth import Keys
from headgate.api.document import also, with_key, with_key_or_password
from headgate.errors import Reason, Refusal
from headgate.telemetry import metrics as telemetry
from headgate.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Views:
    """What these routes show, asked for at each call."""

    ready: Callable[[], tuple[bool, str]]
    status: Callable[[], dict[str, object]]
    status_with_recent: Callable[[], dict[str, object]]
    models: Callable[[], list[dict[str, object]]]
    engines: Callable[[], list[str]]
    engine_metrics: Callable[[str], Any]


class Target(BaseModel):
    """Where Prometheus finds one engine's metrics: a target group of its HTTP service discovery."""

    targets: list[str]
    labels: dict[str, str]


class Health(BaseModel):
    """This process is alive."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(BaseModel):
    """Whether requests should be sent here, and why not."""

    ready: bool
    reason: str = Field(description="ready, or what it waits for: starting, failed, draining, unreachable")


def router(views: Views, metrics: Metrics, keys: Keys, *, closed: bool, version: str) -> APIRouter:
    """The routes. ``closed``: metrics and status need a key (``OPS_AUTH=key``)."""
    routes = APIRouter()
    looking = with_key_or_password(wanted=closed)
    asking = with_key(wanted=not keys.is_open)

    def check(request: Request) -> None:
        if closed:
            keys.require_any(request.scope["headers"])

    @routes.get("/health", summary="Is this process alive?", tags=["operation"])
    async def health() -> Health:
        return Health(version=version)

    @routes.get(
        "/ready",
        summary="Should requests be sent here?",
        tags=["operation"],
        responses={503: {"model": Readiness}},
    )
    async def ready(response: Response) -> Readiness:
        well, reason = views.ready()
        if not well:
            response.status_code = 503
        return Readiness(ready=well, reason=reason)

    @routes.get(
        "/metrics",
        openapi_extra=looking,
        summary="The gateway's own metrics",
        tags=["operation"],
        response_class=Response,
    )
    async def own_metrics(
        request: Request,
        accept: Annotated[str, Header()] = "",
        format_: Annotated[Literal["json", "text"] | None, Query(alias="format")] = None,
    ) -> Response:
        """Prometheus text, or OpenMetrics where it is accepted; JSON where `Accept` or `?format=json` asks for it."""
        check(request)
        if format_ == "json" or (format_ is None and "application/json" in accept):
            return _json(telemetry.as_json(_collected(metrics)))
        encode, content_type = choose_encoder(accept)
        return Response(encode(metrics.registry), media_type=None, headers={"content-type": content_type})

    @routes.get(
        "/status",
        openapi_extra=looking,
        summary="One picture of everything",
        tags=["operation"],
        response_class=Response,
    )
    async def status(request: Request, recent: bool = False) -> Response:
        """Slots and who holds them, line, engines with their load progress and last words, totals, the process.

        `?recent=1` adds the last five minutes, a point a second.
        """
        check(request)
        return _json(views.status_with_recent() if recent else views.status())

    @routes.get(
        "/engines", openapi_extra=looking, summary="Where each engine's metrics are, for Prometheus", tags=["operation"]
    )
    async def engines(request: Request, host: Annotated[str, Header(include_in_schema=False)]) -> list[Target]:
        """One target an engine, in the form of Prometheus' HTTP service discovery (`http_sd_configs`).

        The address is the one that was asked: whoever reaches this list at it reaches the metrics there too.
        """
        check(request)
        return [
            Target(targets=[host], labels={"engine": name, "__metrics_path__": f"/engines/{name}/metrics"})
            for name in views.engines()
        ]

    @routes.get(
        "/engines/{name}/metrics",
        summary="An engine's own metrics",
        openapi_extra=also(looking, 404, 502, 503),
        tags=["operation"],
        response_class=Response,
    )
    async def engine_metrics(request: Request, name: str) -> Response:
        """The engine's `/metrics` as it is, so that Prometheus can scrape an engine that only listens on loopback."""
        check(request)
        content_type, body = await views.engine_metrics(name)
        return Response(body, media_type=None, headers={"content-type": content_type})

    @routes.get(
        "/v1/models", openapi_extra=asking, summary="The models served", tags=["models"], response_class=Response
    )
    async def models(request: Request) -> Response:
        """Answered from memory, while the engine sleeps or loads too."""
        key = keys.caller(request.scope["headers"])
        return _json({"object": "list", "data": [card for card in views.models() if key.allows(str(card.get("id")))]})

    @routes.get(
        "/v1/models/{model:path}",
        openapi_extra=also(asking, 404),
        summary="One model",
        tags=["models"],
        response_class=Response,
    )
    async def model(request: Request, model: str) -> Response:
        if not model:  # a base URL that ends with a slash
            return await models(request)
        key = keys.caller(request.scope["headers"])
        for card in views.models():
            if card.get("id") == model and key.allows(model):
                return _json(card)
        raise Refusal(Reason.NOT_FOUND, f"The model `{model}` is not served here.", param="model")

    return routes


def _collected(metrics: Metrics) -> Iterable[Any]:
    return metrics.registry.collect()


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
