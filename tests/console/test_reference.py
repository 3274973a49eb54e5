"""The list of the API at ``/docs``: whole, from nowhere else, for those who may look on, and text whatever is in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from headgate.api.console.reference import render
from tests.console.test_served import directives
from tests.wire.gateway import Gateway, gateway
from tests.wire.test_watching import basic

if TYPE_CHECKING:
    from tests.console.conftest import Open
    from tests.simulated import Engine


def test_every_operation_of_the_document_is_listed(gate: Gateway) -> None:
    page = gate.get("/docs").text
    for path, methods in gate.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f'<span class="method">{method.upper()}</span><code>{path}</code>' in page


def test_nothing_comes_from_elsewhere_and_nothing_runs(gate: Gateway) -> None:
    """It was a script of a public host's, in the origin in which the gateway's own page has its key."""
    answer = gate.get("/docs")
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    assert policy["img-src"] == ["data:"]
    assert not {"script-src", "connect-src"} & set(policy)
    assert "<script" not in answer.text
    assert not re.search(r"(src|href)=\"(?!/|#|data:)", answer.text)
    assert not re.search(r"<[^>]+\s(on\w+|style)=", answer.text)


def test_browser_shows_it_with_its_style_and_opens_an_operation(gate: Gateway, look: Open) -> None:
    page = look(gate, path="/docs")
    chat = page.locator(".operation", has_text="/v1/chat/completions")
    expect(chat.get_by_text("messages", exact=True)).not_to_be_visible()
    chat.locator("summary").press("Enter")
    expect(chat.get_by_text("messages", exact=True)).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.operation > summary')).display") == "grid"


def test_narrow_screen_scrolls_one_way(gate: Gateway, look: Open) -> None:
    page = look(gate, path="/docs", viewport={"width": 360, "height": 780})
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_closed_with_the_other_operation_routes(engine: Engine) -> None:
    """It and the document were open to all."""
    with gateway(engine, "--api-key", "sesame", "--ops-auth", "key") as gate:
        for given in ("", basic("wrong"), "Bearer wrong"):
            page = gate.get("/docs", authorization=given)
            assert (page.status_code, page.headers["www-authenticate"]) == (401, 'Basic realm="headgate"')
            document = gate.get("/openapi.json", authorization=given)
            assert (document.status_code, document.json()["error"]["code"]) == (401, "unauthorized")
        for given in (basic("sesame"), "Bearer sesame"):
            for path in ("/docs", "/openapi.json"):
                assert gate.get(path, authorization=given).status_code == 200
        assert "<p>Wants a key: bearer, x-api-key, basic.</p>" in gate.get("/docs", x_api_key="sesame").text
        assert gate.get("/redoc").status_code == 404


def test_markup_in_the_document_stays_text() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    operation = {
        "tags": [hostile],
        "summary": hostile,
        "description": f"`{hostile}`",
        "parameters": [{"name": hostile, "in": "header", "schema": {"enum": [hostile]}, "description": hostile}],
        "responses": {"200": {"description": hostile, "content": {hostile: {}}}},
    }
    document = {
        "info": {"version": hostile, "description": hostile},
        "paths": {f"/{hostile}": {"get": operation}},
        "components": {"schemas": {}},
    }
    page = render(document).body.decode()
    assert "<img" not in page
    assert page.count("&lt;img") == 11
