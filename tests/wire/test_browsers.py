"""What a web page may do to a gateway on its visitor's machine: nothing, unless CORS_ORIGINS says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.wire.client import CHAT, chat, request
from tests.wire.gateway import Gateway, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulated import Engine
    from tests.wire.client import Reply

EVIL = "http://evil.example"
FRIEND = "https://chat.example"


def get(gate: Gateway, path: str, method: str = "GET", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with gate.client() as client:
        client.send(request(path, None, named, method=method))
        return client.reply() if method != "OPTIONS" else client.head()


@pytest.mark.parametrize("origin", [EVIL, "null", "http://[", "http://localhost.evil.example", "file://"])
@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/console/burst", "/admin/engines/e0/restart"])
def test_page_of_another_site_can_send_nothing(gate: Gateway, engine: Engine, path: str, origin: str) -> None:
    """A body with no type is a simple request: a browser sends it without asking, and generation took it."""
    seen = engine.state()["requests_seen"]
    reply = gate.ask(chat(), path, origin=origin, content_type="")
    assert (reply.status, reply.error["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in reply.headers
    assert engine.state()["requests_seen"] == seen


def test_page_of_its_own_may(gate: Gateway) -> None:
    here = f"127.0.0.1:{gate.port}"
    assert gate.ask(origin=f"http://{here}", host=here).status == 200
    assert gate.ask(origin="https://llm.example", host="llm.example", sec_fetch_site="same-origin").status == 200


def test_name_that_points_here_by_another_sites_doing_is_refused(gate: Gateway, engine: Engine) -> None:
    """DNS rebinding: the page is of the same site then, and says so, but for its name."""
    seen = engine.state()["requests_seen"]
    assert gate.ask(origin="http://evil.example:8080", host="evil.example:8080").status == 403
    for path in ("/status", "/metrics", "/", "/v1/models", "/engines", "/openapi.json"):
        assert get(gate, path, host="evil.example").error["code"] == "forbidden", path
        for name in ("localhost:1", "127.0.0.1", "[::1]:8080", "10.1.2.3"):
            assert get(gate, path, host=name).status == 200, (path, name)
    assert get(gate, "/health", host="evil.example").status == 200, "a balancer's"
    assert engine.state()["requests_seen"] == seen


@pytest.fixture(scope="module")
def friendly(_engine: Engine) -> Iterator[Gateway]:
    with gateway(_engine, "--cors-origins", f"{FRIEND}, http://other.example:3000") as running:
        yield running


def test_page_that_is_named_may_call_and_read(friendly: Gateway) -> None:
    for reply in (
        friendly.ask(origin=FRIEND),
        friendly.ask({}, origin=FRIEND),
        get(friendly, "/v1/models", origin=FRIEND),
    ):
        assert reply.headers["access-control-allow-origin"] == FRIEND
        assert reply.headers["vary"] == "origin"
        assert "x-headgate-reason" in reply.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in reply.headers
    assert get(friendly, "/status", host="chat.example").status == 200
    assert "access-control-allow-origin" not in friendly.ask().headers
    assert friendly.ask(origin=EVIL).status == 403
    assert "access-control-allow-origin" not in get(friendly, "/v1/models", origin=EVIL).headers


def test_preflight_is_answered_for_those_that_are_named(friendly: Gateway, gate: Gateway) -> None:
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,x-stainless-os"}
    reply = get(friendly, CHAT, "OPTIONS", origin=FRIEND, **asks)
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == FRIEND
    assert reply.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert get(friendly, CHAT, "OPTIONS", origin=EVIL, **asks).status == 405
    assert get(gate, CHAT, "OPTIONS", origin=FRIEND, **asks).status == 405


def test_with_keys_a_page_is_judged_by_its_key(engine: Engine) -> None:
    with gateway(engine, "--api-key", "sesame", "--cors-origins", "*") as gate:
        assert gate.ask(origin=EVIL).status == 401
        reply = gate.ask(origin=EVIL, authorization="Bearer sesame")
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")
        assert get(gate, "/status", host="llm.example").status == 200, "behind a proxy"
