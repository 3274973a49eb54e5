"""API_KEY, OPS_AUTH and the admin key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulated import Engine
from tests.wire.client import chat
from tests.wire.gateway import Gateway, gateway
from tests.wire.test_refusals import check


@pytest.fixture(scope="module")
def locked(_engine: Engine) -> Any:
    """A gateway with an API key and an admin key."""
    flags = ("--api-key", "s\u00e9same", "--admin-key", "open-sesame", "--ops-auth", "key")
    with gateway(_engine, *flags, ready=True) as gate:
        gate.authorize("open-sesame")
        yield gate


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic s\u00e9same", "s\u00e9same"])
def test_without_the_key_it_is_unauthorized(locked: Gateway, given: str) -> None:
    reply = locked.ask(authorization=given)
    check(reply, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    check(locked.ask(chat(), "/v1/messages", authorization=given), "unauthorized", anthropic=True)
    assert locked.get("/v1/models", x_api_key="").status_code == 401


def test_with_the_key_it_is_served(locked: Gateway) -> None:
    """A key that is not ASCII never fitted: it was compared in two encodings."""
    key = "s\u00e9same".encode().decode("latin-1")
    assert locked.ask(authorization=f"Bearer {key}").status == 200
    assert locked.ask(authorization=f"bearer  {key} ").status == 200
    assert locked.ask(x_api_key=key).status == 200
    locked.until_counted(3, key="default", status="200")
    assert locked.ask({}, authorization=f"Bearer {key}").status == 400
    locked.until_counted(1, key="default", status="400")


def test_operation_is_closed_but_for_health_and_readiness(locked: Gateway) -> None:
    for path in ("/status", "/metrics", "/engines/e0/metrics"):
        refused = locked.http.get(path, headers={"x-api-key": ""})
        assert refused.status_code == 401, path
        assert refused.json()["error"]["code"] == "unauthorized"
        assert locked.http.get(path, headers={"x-api-key": "open-sesame"}).status_code == 200
    for path in ("/health", "/ready"):
        assert locked.http.get(path, headers={"x-api-key": ""}).status_code == 200


def test_who_has_no_key_is_told_which_one_admin_wants(locked: Gateway) -> None:
    """ "An API key is needed", and the one that was then sent was 403."""
    answer = locked.http.post("/admin/engines/e0/restart", headers={"x-api-key": ""})
    assert answer.status_code == 401
    assert answer.json()["error"]["message"].startswith("The admin key is needed: `Authorization: Bearer …`.")


def test_admin_needs_the_admin_key_and_refuses_other_sites(locked: Gateway) -> None:
    def restart(**headers: str) -> tuple[int, str]:
        named = [(b"x-api-key", b"")] + [(name.encode(), value.encode()) for name, value in headers.items()]
        answer = locked.http.post("/admin/engines/e9/restart", headers=named)
        return answer.status_code, answer.json()["error"]["code"]

    admin = "Bearer open-sesame"
    assert restart(authorization="Bearer wrong") == (401, "unauthorized")
    assert restart(authorization="Bearer s\u00e9same") == (403, "forbidden")
    assert restart(authorization=admin) == (404, "not_found")
    assert restart(authorization=admin, origin=f"http://127.0.0.1:{locked.port}") == (404, "not_found")
    proxied = {"origin": "https://llm.example:8443", "host": "llm.example"}
    assert restart(authorization=admin, **proxied, **{"sec-fetch-site": "same-origin"}) == (404, "not_found")
    assert restart(authorization=admin, **proxied, **{"sec-fetch-site": "same-site"}) == (403, "forbidden")
    for origin in ("http://evil.example", "null", "http://["):
        assert restart(authorization=admin, origin=origin) == (403, "forbidden")
