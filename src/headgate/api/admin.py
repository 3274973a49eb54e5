"""What changes the gateway while it runs. Always behind the admin key, whatever else is open."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from pydantic import BaseModel

from headgate.api.auth import Keys, require_same_origin
from headgate.errors import Reason, Refusal


class Asked(BaseModel):
    """The order was taken; `/status` shows how it goes."""

    engine: str
    state: str


def router(keys: Keys, restart: Callable[[str], str]) -> APIRouter:
    """The routes. ``restart`` starts an engine anew and returns its state; KeyError where there is none so named."""
    routes = APIRouter(prefix="/admin", tags=["admin"])

    @routes.post("/engines/{name}/restart", summary="Start an engine anew", status_code=202)
    async def restart_engine(request: Request, name: str) -> Asked:
        """Also for one that was given up on (`failed`). What runs on it is cut off."""
        require_same_origin(request.scope["headers"])
        keys.require_admin(request.scope["headers"])
        try:
            state = restart(name)
        except KeyError:
            raise Refusal(Reason.NOT_FOUND, f"There is no engine `{name}`.") from None
        return Asked(engine=name, state=state)

    return routes
