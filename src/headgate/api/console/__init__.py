"""The page at ``/``: how it stands, live, for a person with a browser; and what all pages here have in common.

HTML, style and scripts are files of their own here, put into one answer at the start: nothing is built, and nothing
comes from elsewhere. The answer's policy allows these very bytes and no others, no connection but to this gateway, and
no text that becomes markup. What the page shows it takes from ``/status/events``; ``burst`` is the one thing that it
can do and other clients need not. ``reference`` is the other page, the list of the API.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from headgate.api.auth import Keys
from headgate.api.document import with_key_or_password
from headgate.errors import Refusal

SCRIPTS = ("words.js", "page.js", "plots.js", "gate.js", "engines.js", "try.js", "main.js")
"""In this order: one module, so that none of their names is anybody else's."""


_KEY_WANTED = "This gateway shows itself to those who have a key: any user name, the key as the password.\n"
_CHALLENGE = {"www-authenticate": 'Basic realm="headgate"'}


class Page:
    """A page's bytes, and the headers that they go with.

    Args:
        page: its HTML; ``{style}`` and ``{script}`` in it are where the others go.
        script: empty where it has none, and then may run none.
    """

    def __init__(self, page: str, style: str, script: str = "") -> None:
        self.body = page.replace("{style}", style).replace("{script}", script).encode()
        self.etag = f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'
        self.headers = {
            "content-security-policy": "; ".join(
                (
                    "default-src 'none'",
                    *((f"script-src {_hash(script)}", "connect-src 'self'") if script else ()),
                    f"style-src {_hash(style)}",
                    "img-src data:",  # the icon
                    "base-uri 'none'",
                    "form-action 'none'",
                    "frame-ancestors 'none'",
                    "require-trusted-types-for 'script'",
                    "trusted-types 'none'",
                )
            ),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), geolocation=(), microphone=()",
            "cache-control": "no-cache",
            "etag": self.etag,
        }

    def answer(self, request: Request) -> Response:
        """The page, where the browser doesn't have it yet."""
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self.headers)
        return Response(self.body, media_type="text/html", headers=self.headers)


def turned_away(request: Request, keys: Keys) -> Response | None:
    """What makes a browser ask its user for the key, where the request has none that may look on."""
    try:
        keys.require_any(request.scope["headers"])
    except Refusal as refusal:
        return Response(_KEY_WANTED, 401, {**_CHALLENGE, "x-headgate-reason": refusal.reason}, "text/plain")
    return None


def part(name: str) -> str:
    """A file of this folder."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def router(keys: Keys, version: str, *, closed: bool) -> APIRouter:
    """The route. ``closed``: it needs a key, which a browser asks its user for."""
    html_ = part("page.html").replace("{version}", html.escape(version))
    page = Page(html_, part("page.css"), "".join(part(name) for name in SCRIPTS))
    routes = APIRouter()

    @routes.get(
        "/",
        summary="The page: how it stands, live",
        tags=["operation"],
        response_class=HTMLResponse,
        openapi_extra=with_key_or_password(wanted=closed),
    )
    async def root(request: Request) -> Response:
        return (closed and turned_away(request, keys)) or page.answer(request)

    return routes
