"""The page as HTTP: its policy, its tag, its key; that it is in the wheel; and the burst, which only it asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from headgate.api.console import SCRIPTS
from headgate.api.console.burst import BODY_BYTES, COUNT_MAX
from headgate.api.problems import STATUS
from headgate.errors import Reason
from headgate.standing import Kind
from tests.simulated import Engine
from tests.wire.client import MODEL, Reply, chat
from tests.wire.gateway import Gateway, gateway
from tests.wire.test_watching import basic

ROOT = Path(__file__).parents[2]
FILES = ("page.html", "page.css", "reference.html", "reference.css", *SCRIPTS)


def source(name: str) -> str:
    return resources.files("headgate.api.console").joinpath(name).read_text(encoding="utf-8")


def directives(policy: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (part.split() for part in policy.split(";"))}


def test_policy_allows_these_very_bytes_and_nothing_else(gate: Gateway) -> None:
    answer = gate.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = directives(answer.headers["content-security-policy"])
    inline = {
        "script-src": re.findall(r'<script type="module">(.*?)</script>', answer.text, re.DOTALL),
        "style-src": re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL),
    }
    for name, (content,) in inline.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(name) == [f"'sha256-{digest}'"]
    assert policy == {
        "default-src": ["'none'"],
        "connect-src": ["'self'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_page_has_no_handlers_styles_or_assets_that_the_policy_would_forbid(gate: Gateway) -> None:
    page = gate.get("/").text
    assert not re.search(r"<[^>]+\s(on\w+|style)=", page)
    assert not re.search(r"(src|href)=\"(?!/|#|data:)", page)
    assert not re.search(r"\.(innerHTML|outerHTML|insertAdjacentHTML)|document\.write|\beval\(", page)


def test_page_is_sent_again_only_when_it_has_changed(gate: Gateway) -> None:
    first = gate.get("/")
    again = gate.get("/", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert gate.get("/", if_none_match='"other"').status_code == 200
    head = gate.http.head("/")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])


def test_closed_page_asks_a_browser_for_the_key(engine: Engine) -> None:
    with gateway(engine, "--api-key", "sesame", "--ops-auth", "key") as gate:
        for given in ("", basic("wrong"), "Bearer wrong"):
            refused = gate.http.get("/", headers={"authorization": given})
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Basic realm="headgate"'
            assert refused.headers["x-headgate-reason"] == "unauthorized"
        for given in (basic("sesame"), "Bearer sesame"):
            assert gate.get("/", authorization=given).status_code == 200


def test_page_is_in_the_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        for name in FILES:
            assert content.read(f"headgate/api/console/{name}").decode() == source(name)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained_with_its_status(reason: Reason) -> None:
    found = re.search(rf"^  {reason}: \[(\d+), \"(.+)\.\"\],$", source("words.js"), re.MULTILINE)
    assert found, f"{reason} is not explained on the page"
    assert int(found[1]) == STATUS[reason]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_standing_has_a_tone(kind: Kind) -> None:
    quiet = {Kind.IDLE, Kind.SERVING, Kind.ASLEEP}
    assert (f'[data-kind="{kind}"]' in source("page.css")) == (kind not in quiet)


# The burst.


def check(reply: Reply, reason: Reason) -> None:
    assert (reply.status, reply.error["code"]) == (STATUS[reason], reason)


def test_burst_tells_how_each_of_its_requests_fares(gate: Gateway) -> None:
    with gate.hold(1), gate.http.stream("POST", "/console/burst?count=6", json=chat(40)) as answer:
        assert answer.status_code == 200
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [fate["state"] for fate in lines[0]] == ["waiting"] * 6
    last = lines[-1]
    assert [fate["state"] for fate in last] == ["done"] * 5 + ["refused"]
    assert [fate["tokens"] // 10 for fate in last] == [4] * 5 + [0], "events, of which the last has no token in it"
    assert [fate["queue_ms"] > 0 for fate in last[:5]] == [False, True, True, True, True]
    assert last[5]["reason"] == "queue_full"
    assert last[5]["retry_after_s"] > 0
    assert last[5]["queue_ms"] is None


def test_whole_answers_of_a_burst_are_done_too(gate: Gateway) -> None:
    answer = gate.http.post("/console/burst?count=2", json=chat(3, stream=False))
    assert [fate["state"] for fate in json.loads(answer.text.splitlines()[-1])] == ["done", "done"]


def test_engine_that_fails_in_a_burst_is_told(gate: Gateway, engine: Engine) -> None:
    engine.faults({"kind": "cut", "after_events": 2})
    answer = gate.http.post("/console/burst?count=1", json=chat(9))
    (fate,) = json.loads(answer.text.splitlines()[-1])
    assert (fate["state"], fate["reason"]) == ("failed", "engine_failed")


def test_burst_ends_with_the_connection_that_asked_for_it(gate: Gateway, engine: Engine) -> None:
    before = gate.counted(status="499")
    with gate.client() as client:
        client.post("/console/burst?count=6", chat(60_000))
        gate.until(active=2, queued=4)
    engine.state(inflight=0)
    gate.until(active=0, queued=0)
    gate.until_counted(before + 6, route="/v1/chat/completions", status="499")


def test_one_burst_at_a_time(gate: Gateway) -> None:
    with gate.client() as client:
        client.post("/console/burst?count=2", chat(60_000))
        gate.until(active=2)
        check(gate.ask(chat(), "/console/burst?count=1"), Reason.SLOTS_BUSY)
    gate.until(active=0)
    assert gate.ask(chat(3), "/console/burst?count=1").status == 200


def test_burst_is_bounded_and_checked_once(gate: Gateway) -> None:
    for count in (0, COUNT_MAX + 1):
        check(gate.ask(chat(), f"/console/burst?count={count}"), Reason.INVALID_REQUEST)
    check(gate.ask({"model": MODEL}, "/console/burst"), Reason.INVALID_REQUEST)
    check(gate.ask(chat(text="x" * BODY_BYTES), "/console/burst"), Reason.TOO_LARGE)
    check(gate.ask(chat(), "/console/burst", **{"content-type": "text/plain"}), Reason.UNSUPPORTED_MEDIA_TYPE)
    check(gate.ask(chat(), "/console/burst", origin="http://evil.example"), Reason.FORBIDDEN)


def test_burst_wants_the_key_that_generation_wants(engine: Engine) -> None:
    with gateway(engine, "--api-key", "sesame") as gate:
        check(gate.ask(chat(), "/console/burst"), Reason.UNAUTHORIZED)
        check(gate.ask(chat(), "/console/burst", authorization=basic("sesame")), Reason.UNAUTHORIZED)
        assert gate.ask(chat(2), "/console/burst?count=2", authorization="Bearer sesame").status == 200
        gate.until_counted(2, route="/v1/chat/completions", key="default", status="200")
