"""What the OpenAPI document says of a generation route, of keys and of refusals; the routes of FastAPI say the rest.

``GET /openapi.json`` is the document, ``/docs`` the page made of it.
"""

from __future__ import annotations

from typing import Any

from headgate.api import problems, wishes
from headgate.api.generation import Endpoint
from headgate.errors import Reason

Part = dict[str, Any]

SCHEMES: Part = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same, as Anthropic's."},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "For browsers, where `OPS_AUTH=key`: any user, the key as the password.",
    },
}

ERROR: Part = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "enum": [reason.value for reason in Reason]},
                "retry_after_s": {"type": "number"},
            },
        }
    },
}


def refusals(*statuses: int) -> Part:
    """Answers with these statuses, each with the reasons that it may have."""
    return {
        str(status): {
            "description": ", ".join(r.value for r, s in problems.STATUS.items() if s == status)
            or Reason.INVALID_REQUEST.value,  # 405
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status in statuses
    }


def also(part: Part, *statuses: int) -> Part:
    """The same part of a route with these refusals as well."""
    return {**part, "responses": {**part.get("responses", {}), **refusals(*statuses)}}


def with_key(*, wanted: bool = True) -> Part:
    """What is added to a route that takes a key in its headers; nothing unless one is ``wanted``."""
    return {"security": [{"bearer": []}, {"x-api-key": []}], "responses": refusals(401, 403)} if wanted else {}


def with_key_or_password(*, wanted: bool) -> Part:
    """The same for a route that lets browsers in."""
    told = with_key(wanted=wanted)
    return {**told, "security": [*told["security"], {"basic": []}]} if told else {}


def _header(name: str, schema: Part, description: str) -> Part:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_BELIEVED = "Counts from callers with a key, or from a trusted proxy."
_ID = _header(
    "x-request-id", {"type": "string", "maxLength": 128}, "The caller's own id of this request; it comes back."
)
_WISHES = [
    _header(
        "x-headgate-priority",
        {"type": "string"},
        f"`high`, `normal`, `low`, or -{wishes.RANK_MOST} (first) to {wishes.RANK_MOST}. {_BELIEVED}",
    ),
    _header(
        "x-headgate-user",
        {"type": "string"},
        f"Who asks, of several users of one key: the first {wishes.USER_MOST} characters. {_BELIEVED}",
    ),
    _header(
        "x-headgate-deadline-ms",
        {"type": "integer", "minimum": 1, "maximum": wishes.DEADLINE_MOST_MS},
        "The longest wait for a slot that makes sense to the caller.",
    ),
    _header(
        "x-headgate-wait",
        {"type": "string", "enum": ["events"]},
        "A stream is told its place in the line while it waits.",
    ),
]


def describe(endpoint: Endpoint, *, needs_key: bool) -> Part:
    """A generation route: what the gateway itself reads, and how it refuses."""
    multipart = endpoint.reads == "multipart"
    content: Part = {"application/json": {"schema": {"type": "object"}}}
    if endpoint.gated and endpoint.reads != "generate":
        content["text/event-stream"] = {"schema": {"type": "string"}}
    key = with_key(wanted=needs_key)
    required = ["prompt"] if endpoint.reads == "generate" else [*endpoint.required, "model"]
    body = {"type": "object", "required": required, "properties": _fields(endpoint), "additionalProperties": True}
    return {
        **key,
        "tags": ["generation" if endpoint.gated else "without a slot"],
        "summary": endpoint.summary,
        "operationId": endpoint.path.strip("/").replace("/", "_"),
        "parameters": [_ID, *_WISHES] if endpoint.gated else [_ID],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data" if multipart else "application/json": {"schema": body}},
        },
        "responses": {
            "200": {"description": "The engine's answer", "content": content},
            **refusals(400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 502, 503, 504),
        },
    }


def _fields(endpoint: Endpoint) -> Part:
    fields: Part = {"model": {"type": "string"}}
    if endpoint.reads == "generate":
        fields["prompt"] = {"type": "string"}
    elif endpoint.gated:
        fields["stream"] = {"type": "boolean"}
    if endpoint.can_ask_usage:
        fields["stream_options"] = {"type": "object", "properties": {"include_usage": {"type": "boolean"}}}
        fields["n"] = {"type": "integer", "minimum": 1, "description": "Takes as many slots."}
    for name in endpoint.required:
        fields.setdefault(name, {"type": "array"} if name == "messages" else {})
    if endpoint.reads == "multipart":
        fields["file"] = {"type": "string", "format": "binary"}
    return fields
