"""Every refusal has its API's shape, its reason, its request id, and says when to come back where that makes sense."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, MODEL, Reply, chat, request
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until

STATUS = {
    "slots_busy": 429,
    "rate_limited": 429,
    "queue_full": 429,
    "queue_timeout": 503,
    "engine_unavailable": 503,
    "draining": 503,
    "engine_failed": 502,
    "request_timeout": 504,
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "request_incomplete": 408,
    "unsupported_media_type": 415,
}


def check(reply: Reply, reason: str, *, anthropic: bool = False, status: int | None = None) -> dict[str, Any]:
    """The error of a refusal, which must have everything that the contract promises."""
    assert reply.status == (status or STATUS[reason])
    assert reply.ended
    assert reply.headers["x-headgate-reason"] == reason
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    error = reply.error
    assert error["code"] == reason
    assert error["message"].endswith(".")
    if anthropic:
        assert reply.json["type"] == "error"
        assert isinstance(error["type"], str)
    else:
        assert set(error) - {"retry_after_s"} == {"message", "type", "param", "code"}
    if reply.status in (429, 503):
        wait_s = error["retry_after_s"]
        assert wait_s > 0
        assert int(reply.headers["retry-after"]) == math.ceil(min(wait_s, 60))
        assert math.isclose(int(reply.headers["retry-after-ms"]), min(wait_s, 60) * 1000, abs_tol=2)
    else:
        assert "retry-after" not in reply.headers
    hopeless = reason in ("engine_failed", "request_timeout")
    assert reply.headers.get("x-should-retry") == ("false" if hopeless else None)
    return error


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_refusals_for_load_have_their_shape(busy: Gateway, path: str) -> None:
    anthropic = path == "/v1/messages"
    body = chat(prompt="Hello", input="Hello")
    check(busy.ask(body, path), "queue_full", anthropic=anthropic)


@pytest.fixture(scope="module")
def busy() -> Any:
    """A gateway whose one slot is held and whose line has no place."""
    with (
        simulated_engine(*ROOMY) as engine,
        gateway(engine, "--max-active", "1", "--queue-max", "0") as gate,
        gate.hold(1, 60_000),
    ):
        yield gate


def test_retry_after_grows_with_those_who_were_told_to_come_back(busy: Gateway) -> None:
    waits = [check(busy.ask(), "queue_full")["retry_after_s"] for _ in range(4)]
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_a_body_that_is_empty_or_compressed_is_told_so(gate: Gateway) -> None:
    """An empty one was "truncated", a compressed one could not be decoded as UTF-8."""
    assert check(gate.ask(b""), "invalid_request")["message"] == "The body is empty: a JSON object is wanted."
    squeezed = gate.ask(gzip.compress(b"{}"), content_encoding="gzip")
    assert "`content-encoding: gzip`" in check(squeezed, "unsupported_media_type")["message"]
    for none in ("identity", " "):
        assert gate.ask(chat(1), content_encoding=none).status == 200


@pytest.fixture
def untouched(gate: Gateway, engine: Engine) -> Any:
    """The gateway, and a check that nothing reached the engine."""
    seen = engine.state()["requests_seen"]
    yield gate
    assert engine.state()["requests_seen"] == seen


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b'{"model": "x"} trailing', None),
        (b'{"model": "\xff", "messages": []}', None),
        (b"\xef\xbb\xbf{}", None),
        (b"[" * 100_000, None),
        (b'{"model":"x","messages":' + b"[" * 100_000, None),
        ({"messages": []}, "model"),
        ({"model": "", "messages": []}, "model"),
        ({"model": None, "messages": []}, "model"),
        ({"model": 7, "messages": []}, "model"),
        ({"model": MODEL}, "messages"),
        ({"model": MODEL, "messages": None}, "messages"),
        ({"model": MODEL, "messages": "Hello"}, "messages"),
        ({"model": MODEL, "messages": {}}, "messages"),
        (chat() | {"stream": "yes"}, "stream"),
        (chat(n=0), "n"),
        (chat(n=-1), "n"),
        (chat(n="two"), "n"),
        (chat(n=1 << 40), "n"),
        (chat(max_tokens="many"), "max_tokens"),
        (chat(stream_options={"include_usage": "yes"}), "stream_options"),
        (chat(stream_options=[]), "stream_options"),
        (chat(background=True), "background"),
    ],
)
def test_malformed_request_is_invalid_and_reaches_nobody(untouched: Gateway, body: Any, param: str | None) -> None:
    error = check(untouched.ask(body), "invalid_request")
    assert error["param"] == param
    if param:
        assert f"`{param}" in error["message"]


def test_malformed_request_on_messages_is_told_in_anthropics_shape(untouched: Gateway) -> None:
    error = check(untouched.ask({"model": MODEL}, "/v1/messages"), "invalid_request", anthropic=True)
    assert error["type"] == "invalid_request_error"


def test_unknown_model_is_not_found(untouched: Gateway) -> None:
    error = check(untouched.ask(chat() | {"model": "gpt-5"}), "not_found")
    assert "`gpt-5`" in error["message"]
    assert error["param"] == "model"
    assert untouched.metric("api_requests_total", model="gpt-5") == 0, "nothing that a caller sends becomes a label"


def test_model_of_a_megabyte_is_not_said_again_in_full(untouched: Gateway) -> None:
    error = check(untouched.ask(chat() | {"model": "m" * 1_000_000}), "not_found")
    assert len(error["message"]) < 500


def test_wrong_media_type_is_refused(untouched: Gateway) -> None:
    for given in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        check(untouched.ask(content_type=given), "unsupported_media_type")
    check(untouched.ask(chat(), "/v1/audio/transcriptions"), "unsupported_media_type")


@pytest.mark.parametrize("given", ["application/json; charset=utf-8", "Application/JSON", ""])
def test_json_by_another_spelling_or_by_default_is_taken(gate: Gateway, given: str) -> None:
    assert gate.ask(content_type=given).status == 200


@pytest.fixture(scope="module")
def small(_engine: Engine) -> Any:
    """A gateway that takes bodies of 100 kB."""
    with gateway(_engine, "--max-body-bytes", "100kB", "--max-active", "2") as gate:
        yield gate


def test_body_that_says_it_is_too_large_is_refused_before_it_is_sent(small: Gateway) -> None:
    with small.client() as client:
        client.send(request(CHAT, b"", {"content-length": "100001"}))
        check(client.reply(), "too_large")
        # It is sent all the same, and the connection goes on behind it.
        client.send(b" " * 100_001)
        assert client.ask(CHAT, chat()).status == 200


def test_chunked_body_that_grows_too_large_is_refused(small: Gateway) -> None:
    with small.client() as client:
        client.send(request(CHAT, b"", {"content-length": "", "transfer-encoding": "chunked"}))
        for _ in range(11):
            client.send(b"%x\r\n%b\r\n" % (10_000, b" " * 10_000))
        check(client.reply(), "too_large")
        client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (10_000, b" " * 10_000))
        assert client.ask(CHAT, chat()).status == 200


def test_body_of_just_the_largest_size_is_taken(small: Gateway) -> None:
    with small.client() as client:
        body = json.dumps(chat()).encode()
        assert client.ask(CHAT, body.ljust(100_000)).status == 200
        assert client.ask(CHAT, body.ljust(100_001)).status == 413


def test_body_has_no_more_time_to_arrive_than_the_whole_request(engine: Engine) -> None:
    """Only the engine's time was limited: a client that sends its body for ever was waited for, for ever."""
    with gateway(engine, "--request-timeout-s", "0.3") as gate, gate.client() as client:
        client.send(request(CHAT, chat(text="x" * 1000))[:-500])
        check(client.reply(), "request_incomplete")


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/generate", "/tokenize"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_on_generation_routes_are_405(untouched: Gateway, method: str, path: str) -> None:
    """They were 404, as if there were no such route."""
    answer = untouched.http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method == "HEAD":
        assert answer.content == b""
    else:
        assert answer.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("path", ["/v1/nothing", "/sleep", "/collective_rpc", "/v1/load_lora_adapter", "/v1/realtime"])
def test_unknown_and_dangerous_paths_are_not_found(untouched: Gateway, path: str) -> None:
    answer = untouched.http.post(path, json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.headers["x-headgate-reason"] == "not_found"


def test_bytes_that_are_no_http_are_refused_in_the_usual_shape(untouched: Gateway) -> None:
    with untouched.client() as client:
        client.send(b"\x16\x03\x01 hello\r\n\r\n")
        reply = client.reply()
        assert (reply.status, reply.error["code"]) == (400, "invalid_request")
        assert client.closed()


def test_response_that_only_one_of_several_engines_remembers_cannot_be_gone_on_from(engine: Engine) -> None:
    """Any of them got it, and the others knew nothing of that response."""
    body = {"model": MODEL, "input": "Hello", "previous_response_id": "resp_1", "max_output_tokens": 2}
    with (
        simulated_engine("--model-name", MODEL, "--model-name", "other") as second,
        gateway(f"{engine.url},{second.url}") as several,
    ):
        error = check(several.ask(body, "/v1/responses"), "invalid_request")
        assert error["param"] == "previous_response_id"
        wait_until(lambda: "don't serve the same models (" in several.log(), "it says that they differ")
    with gateway(engine) as one:
        assert one.ask(body, "/v1/responses").status == 200
