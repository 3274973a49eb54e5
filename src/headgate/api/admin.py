"""What changes the gateway while it runs. Always behind the admin key, whatever else is open."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from headgate.api.auth import Keys, require_same_origin
from headgate.api.document import also, with_key
from headgate.errors import Reason, Refusal
from headgate.pool.lifecycle import State


class Asked(BaseModel):
    """The order was taken; `/status` shows how it goes."""

    engine: str
    was: str = Field(description="the state in which the order found it")
    then: str = Field(description="what happens now, in a sentence")


def router(keys: Keys, restart: Callable[[str], tuple[State, bool]]) -> APIRouter:
    """The routes.

    Args:
        restart: starts an engine anew, and returns the state that it was in and whether it is the gateway's own;
            KeyError where there is none so named, Refusal where the gateway is shutting down.
    """
    routes = APIRouter(prefix="/admin", tags=["admin"])

    @routes.post(
        "/engines/{name}/restart",
        summary="Start an engine anew",
        status_code=202,
        openapi_extra=also(with_key(), 404, 503),
    )
    async def restart_engine(request: Request, name: str) -> Asked:
        """Also for one that was given up on (`failed`). What runs on it is cut off."""
        require_same_origin(request.scope["headers"])
        keys.require_admin(request.scope["headers"])
        try:
            was, is_ours = restart(name)
        except KeyError:
            raise Refusal(Reason.NOT_FOUND, f"There is no engine `{name}`.") from None
        return Asked(engine=name, was=was, then=what_follows(was, is_ours=is_ours))

    return routes


def what_follows(was: State, *, is_ours: bool) -> str:
    """What a restart does to an engine in this state, in a sentence."""
    if not is_ours:
        return "It is not the gateway's to restart: it is looked at anew, as at the gateway's start."
    if was in (State.STOPPED, State.BACKOFF, State.FAILED):
        return "It is started now."
    return "It is stopped now, what runs on it is cut off, and then it is started."
