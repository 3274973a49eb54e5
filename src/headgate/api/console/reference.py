"""``GET /docs``: the OpenAPI document for a person, and ``/openapi.json``, the document itself.

Written out here, in plain HTML: what usually draws such a document is a script from somebody else's host, which would
run with all that the gateway's own page may do, and a machine with no way out would show nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from headgate.api.auth import Keys
from headgate.api.console import Page, part, turned_away

Document = dict[str, Any]


def router(document: Callable[[], Document], keys: Keys, *, closed: bool) -> APIRouter:
    """The routes. ``closed``: they need a key; the document says what is where."""
    routes = APIRouter(include_in_schema=False)
    page = cache(lambda: render(document()))  # made when it is first asked for: the document knows every route

    @routes.get("/openapi.json", response_class=Response)
    async def openapi(request: Request) -> Response:
        if closed:
            keys.require_any(request.scope["headers"])
        return JSONResponse(document())

    @routes.get("/docs", response_class=Response)
    async def docs(request: Request) -> Response:
        return (closed and turned_away(request, keys)) or page().answer(request)

    return routes


def render(document: Document) -> Page:
    """The document as a page: an operation a line, and what it takes and answers under it."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for tag in operation.get("tags", ["other"]):
                by_tag.setdefault(tag, []).append(_operation(document, method, path, operation))
    listed = "\n".join(f"<section><h2>{escape(tag)}</h2>\n{''.join(each)}</section>" for tag, each in by_tag.items())
    page = (
        part("reference.html")
        .replace("{version}", escape(document["info"]["version"]))
        .replace("{description}", _prose(document["info"]["description"]))
        .replace("{operations}", listed)
    )
    return Page(page, part("page.css") + part("reference.css"))


def _operation(document: Document, method: str, path: str, operation: Document) -> str:
    keys = [name for each in operation.get("security", ()) for name in each]
    takes = [
        (each["name"], f"{each['in']}, {_kind(document, each['schema'])}", each.get("description", ""))
        for each in operation.get("parameters", ())
    ]
    answers = [
        (status, ", ".join(answer.get("content", ())), answer["description"])
        for status, answer in sorted(operation["responses"].items())
    ]
    return "".join(
        (
            '<details class="operation"><summary>',
            f'<span class="method">{escape(method.upper())}</span><code>{escape(path)}</code>',
            f'<span>{_prose(operation["summary"])}</span></summary>\n<div class="about">',
            f"<p>{_prose(operation.get('description', ''))}</p>" if operation.get("description") else "",
            f"<p>Wants a key: {escape(', '.join(keys))}.</p>" if keys else "",
            _table("Takes", takes),
            *(
                _table(f"Body: {kind}", _fields(document, body["schema"]))
                for kind, body in operation.get("requestBody", {}).get("content", {}).items()
            ),
            _table("Answers", answers),
            "</div></details>\n",
        )
    )


def _fields(document: Document, schema: Document) -> Iterator[tuple[str, str, str]]:
    schema = _found(document, schema)
    for name, field in schema.get("properties", {}).items():
        must = "required, " if name in schema.get("required", ()) else ""
        yield name, must + _kind(document, field), field.get("description", "")


def _found(document: Document, schema: Document) -> Document:
    """What a reference refers to."""
    named: Document = document["components"]["schemas"]
    return named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(document: Document, schema: Document) -> str:
    schema = _found(document, schema)
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kinds = schema.get("type", [_kind(document, each) for each in schema.get("anyOf", ())])
    return " or ".join([kinds] if isinstance(kinds, str) else kinds) or "anything"


def _table(title: str, rows: Iterable[tuple[str, str, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind)}</td><td>{_prose(text)}</td></tr>\n"
        for name, kind, text in rows
    )
    return f"<h3>{escape(title)}</h3><table>{lines}</table>" if lines else ""


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
