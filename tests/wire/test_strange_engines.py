"""Engines that answer what nobody expects: each request still ends, once, and says what happened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.wire.client import CHAT, DONE, MODEL, chat
from tests.wire.gateway import Gateway, gateway
from tests.wire.scripted import JSON, SSE, TRIES, Scripted, chunked, scripted_engine, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Gateway, Scripted]]:
    with scripted_engine() as script, gateway(script.url, "--max-active", "2", "--wake-timeout-s", "5") as gate:
        yield gate, script


@pytest.fixture
def gate(pair: tuple[Gateway, Scripted]) -> Iterator[Gateway]:
    yield pair[0]
    pair[0].until(active=0, queued=0)


@pytest.fixture
def engine(pair: tuple[Gateway, Scripted]) -> Scripted:
    return pair[1]


def test_stream_that_ends_without_done_is_an_error(gate: Gateway, engine: Scripted) -> None:
    """HTTP says that the body is whole: only the missing [DONE] tells."""
    engine.say(SSE + chunked(HELLO))
    reply = gate.ask()
    assert reply.text == "Hello"
    assert reply.data[-1]["error"]["code"] == "engine_failed"
    assert "before its answer was complete" in reply.data[-1]["error"]["message"]
    assert reply.events[-1] == DONE


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_named_stream_that_ends_without_its_last_event_is_an_error(gate: Gateway, engine: Scripted, path: str) -> None:
    engine.say(SSE + chunked(b'event: something\ndata: {"type":"something"}\n\n'))
    reply = gate.ask(chat(input="Hello"), path)
    assert reply.events[-1].startswith(b"event: error\n")


def test_engine_does_not_say_which_pages_may_read_an_answer(gate: Gateway, engine: Scripted) -> None:
    """Some let every page, unasked: then a gateway without CORS_ORIGINS did, and one with them said it twice."""
    everybody = b"access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\nx-kept: yes\r\n"
    engine.say(JSON + everybody + sized(b'{"choices":[]}'))
    reply = gate.ask(chat(stream=False))
    assert reply.headers["x-kept"] == "yes"
    assert not [name for name in reply.headers if name.startswith("access-control-")]


def test_empty_stream_is_tried_again_and_then_refused(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + chunked())
    engine.say(SSE + chunked(HELLO, DONE))
    assert gate.ask().text == "Hello"
    for _ in range(TRIES):
        engine.say(SSE + chunked())
    assert gate.ask().error["code"] == "engine_failed"


def test_answer_that_ends_with_its_connection_is_whole(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + b"\r\n" + HELLO + DONE, then_close=True)
    assert gate.ask().events[-1] == DONE
    engine.say(JSON + b"\r\n" + b'{"choices":[]}', then_close=True)
    assert gate.ask(chat(stream=False)).json["choices"] == []


def test_bytes_behind_a_whole_answer_end_the_connection_and_not_the_answer(gate: Gateway, engine: Scripted) -> None:
    """What came before the mistake in the same read was thrown away, the end of the answer with it."""
    engine.say(SSE + chunked(HELLO, DONE) + b"\x00\x01garbage\r\n")
    reply = gate.ask()
    assert (reply.text, reply.events[-1]) == ("Hello", DONE)
    engine.say(SSE + chunked(HELLO, DONE))
    assert gate.ask().text == "Hello"


def test_second_answer_to_one_request_is_nobodys(gate: Gateway, engine: Scripted) -> None:
    two = JSON + sized(b'{"first":1}') + JSON + b"x-leaked: yes\r\n" + sized(b'{"second":2}')
    engine.say(two)
    engine.say(JSON + sized(b'{"third":3}'))
    reply = gate.ask(chat(stream=False))
    assert reply.json["first"] == 1
    assert "x-leaked" not in reply.headers
    assert gate.ask(chat(stream=False)).json["third"] == 3


def test_interim_answers_are_passed_over(gate: Gateway, engine: Scripted) -> None:
    engine.say(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n" + SSE + chunked(HELLO, DONE)
    )
    reply = gate.ask()
    assert reply.text == "Hello"
    assert "link" not in reply.headers


@pytest.mark.parametrize("head", [b"HTTP/1.1 600 What\r\n", b"HTTP/1.1 999 Huh\r\n", b"HTTP/1.1 101 Switching\r\n"])
def test_status_that_there_is_not_is_engine_failed(gate: Gateway, engine: Scripted, head: bytes) -> None:
    """A KeyError in the socket's callback left the request without an end."""
    more = b"connection: upgrade\r\nupgrade: x\r\n" if b"101" in head else b""
    for _ in range(TRIES):
        engine.say(head + more + sized(b""), then_close=True)
    reply = gate.ask()
    assert (reply.status, reply.error["code"]) == (502, "engine_failed")


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"usage" broken\n\n',
        b'data: {"choices":[],"usage":"many"}\n\n',
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":7,"usage":{"prompt_tokens":-1}}\n\n',
        b'data: {"usage":{"prompt_tokens":1e400}}\n\n',
        b'data: "usage"\n\n',
        b'data: ["usage", "error", "abort"]\n\n',
        b'data: "error"\n\n',
        b'data: {"error": null, "choices":[]}\n\n',
        b'data: {"message":"usage","usage":{}}\n\n',
        b"data:\n\n",
        b"data\n\n",
        b"id: 7\nretry: 10\ndata: x\n\n",
        b"\n\n",
        b"\xff\xfe \x00\n\n",
    ],
)
def test_event_that_cannot_be_read_passes_or_is_left_out_and_the_stream_goes_on(
    gate: Gateway, engine: Scripted, event: bytes
) -> None:
    engine.say(SSE + chunked(HELLO, event, HELLO, USAGE, DONE))
    with gate.client() as client:
        reply = client.ask(CHAT, chat())
    assert reply.body.count(HELLO) == 2
    assert reply.body.endswith(DONE)
    assert b'"completion_tokens":3' in reply.body


def test_usage_that_comes_first_is_not_lost(gate: Gateway, engine: Scripted) -> None:
    """A stream's head went out with its first token only, and what came before that was thrown away."""
    engine.say(SSE + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(USAGE), USAGE))
    with gate.client() as client:
        client.post(CHAT, chat(stream_options={"include_usage": True}))
        assert client.until_events(1).data[0]["usage"]["prompt_tokens"] == 7


def test_comments_before_an_error_do_not_cost_it_its_status(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + chunked(b": keep-alive\n\n", b'data: {"error":{"message":"no","code":418}}\n\n', DONE))
    assert gate.ask().status == 418


def test_json_where_a_stream_was_asked_for_passes(gate: Gateway, engine: Scripted) -> None:
    engine.say(JSON + sized(b'{"choices":[]}'))
    assert gate.ask().json["choices"] == []


def test_stream_where_json_was_asked_for_passes(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + chunked(HELLO, DONE))
    assert gate.ask(chat(stream=False)).events[-1] == DONE


@pytest.mark.parametrize("body", [b"", b"{}", b"{ }", b"[]", b"null", b"text", b'{"choices":', b"\xff"])
def test_whole_reply_of_any_kind_passes(gate: Gateway, engine: Scripted, body: bytes) -> None:
    """`{ }` came back as `{ ,"headgate":…}`."""
    engine.say(JSON + sized(body))
    reply = gate.ask(chat(stream=False))
    assert reply.ended
    assert reply.body == body


def test_headers_of_the_hop_are_not_passed_and_ours_are_not_doubled(gate: Gateway, engine: Scripted) -> None:
    hop = b"connection: x-private\r\nkeep-alive: 5\r\nx-request-id: theirs\r\nserver: uvicorn\r\ndate: now\r\n"
    behind = b"request-id: theirs\r\nx-headgate-engine: e9\r\nx-headgate-queue-ms: 7\r\nx-kept: yes\r\n"
    engine.say(JSON + hop + behind + sized(b'{"a":1}'))
    reply = gate.ask(chat(stream=False), x_request_id="mine")  # the client refuses a header that stands twice
    assert reply.headers["x-request-id"] == "mine"
    assert reply.headers["x-headgate-engine"] == "e0"
    assert reply.headers["x-kept"] == "yes"
    assert not {"keep-alive", "server", "request-id"} & set(reply.headers)


def test_answer_has_one_type_whatever_the_engine_says(gate: Gateway, engine: Scripted) -> None:
    engine.say(JSON + b"content-type: text/plain\r\n" + sized(b'{"a":1}'))
    assert gate.ask(chat(stream=False)).headers["content-type"] == "application/json"


def test_generate_whose_answer_is_no_completion_is_engine_failed(gate: Gateway, engine: Scripted) -> None:
    for _ in range(TRIES):
        engine.say(JSON + sized(b'{"choices":"none"}'))
    assert gate.ask({"prompt": "Hello"}, "/generate").error["code"] == "engine_failed"


def test_engine_gets_the_callers_body_with_usage_asked_for(gate: Gateway, engine: Scripted) -> None:
    spaced = b'{ "model" : "%b", "messages":[] , "stream" :true, "unknown": [1,  2], "stream_options": null }\n' % (
        MODEL.encode()
    )
    engine.say(SSE + chunked(HELLO, USAGE, DONE))
    reply = gate.ask(spaced)
    got = engine.requests[-1]
    assert got.startswith(spaced.rstrip()[:-1])
    assert json.loads(got)["stream_options"] == {"include_usage": True}
    assert USAGE not in reply.body
    assert reply.figures is not None
    assert (reply.figures["prompt_tokens"], reply.figures["completion_tokens"]) == (7, 3)


def test_engine_that_ends_its_answer_but_not_its_body_is_ended_by_the_time_limit(engine: Scripted) -> None:
    """An error event stood behind [DONE]."""
    with gateway(engine.url, "--request-timeout-s", "0.4") as hasty:
        engine.say(SSE + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(HELLO + DONE), HELLO + DONE))
        reply = hasty.ask()
        assert reply.ended
        assert reply.events[-1] == DONE
        assert b"error" not in reply.body
        hasty.until_counted(1, route=CHAT, status="200", reason="ok")


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (CHAT, DONE),
        ("/v1/messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        ("/v1/responses", b'event: response.completed\ndata: {"type":"response.completed"}\n\n'),
    ],
)
def test_client_that_leaves_with_its_whole_answer_was_served(
    gate: Gateway, engine: Scripted, path: str, last: bytes
) -> None:
    """SDKs close at the last event, a moment before the engine ends its body, and were counted as having left."""
    served, left = (gate.metric("api_requests_total", route=path, reason=reason) for reason in ("ok", "client_left"))
    told = HELLO + last
    engine.say(SSE + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(told), told))
    body = {**chat(), "input": "Hello"}
    with gate.client() as client:
        client.post(path, body).until(last)
    gate.until(active=0)
    gate.until_counted(served + 1, route=path, reason="ok")
    assert gate.metric("api_requests_total", route=path, reason="client_left") == left


@pytest.mark.parametrize("status", [b"000", b"099", b"600"])
def test_status_that_there_is_not_is_no_answer(gate: Gateway, engine: Scripted, status: bytes) -> None:
    """One below 100 passed for an interim answer, and its body for that of an answer that never came."""
    for _ in range(TRIES):
        engine.say(b"HTTP/1.1 " + status + b" OK\r\n\r\nuntil the end", then_close=True)
    reply = gate.ask()
    assert (reply.status, reply.error["code"]) == (502, "engine_failed")


@pytest.mark.parametrize("stream", [True, False])
def test_error_that_is_no_utf_8_is_passed_on(gate: Gateway, engine: Scripted, stream: bool) -> None:
    """The gateway itself failed at it: msgspec says of keys that they are no UTF-8, by an error of another kind."""
    engine.say(JSON.replace(b"200 OK", b"400 Bad Request") + sized(b'{"\xe5":1,"error":{"message":"no"}}'))
    assert gate.ask(chat(stream=stream)).status == 400


def named(name: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **fields}).encode())


@pytest.mark.parametrize("stream", [True, False])
def test_metadata_of_a_caller_is_not_taken_for_the_engines_word(gate: Gateway, engine: Scripted, stream: bool) -> None:
    """It comes back with the answer; the answer was thrown away, the engine asked once more, and then suspect."""
    metadata = {"finish_reason": "abort", "status": "cancelled"}
    told = {"object": "response", "status": "completed", "incomplete_details": None, "metadata": metadata}
    compact = json.dumps(told, separators=(",", ":")).encode()
    last = b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n' % compact
    engine.say(SSE + chunked(named("response.created", response=told), last) if stream else JSON + sized(compact))
    reply = gate.ask(
        {"model": MODEL, "input": "Hello", "stream": stream}, "/v1/responses", x_request_id=f"meta-{stream}"
    )
    assert reply.status == 200
    assert b"event: error" not in reply.body
    assert gate.logged(f"meta-{stream}")["reason"] == "ok"


def test_message_that_the_engine_gave_up_does_not_look_whole(gate: Gateway, engine: Scripted) -> None:
    """vLLM at its end says no reason why the message stops, and then that it does."""

    def message(*reasons: str | None) -> bytes:
        deltas = [named("message_delta", delta={"stop_reason": reason}) for reason in reasons]
        return SSE + chunked(named("message_start", message={"stop_reason": None}), *deltas, named("message_stop"))

    def ask() -> bytes:
        return gate.ask(chat(), "/v1/messages").events[-1]

    engine.say(message(None))
    assert ask().startswith(b"event: error\n")
    engine.say(message(None, "end_turn"))
    assert b"event: error" not in ask()
    whole = {"type": "message", "content": [{"type": "text", "text": "Hel"}]}
    engine.say(JSON + sized(json.dumps(whole).encode()))
    engine.say(JSON + sized(json.dumps({**whole, "stop_reason": "end_turn"}).encode()))
    assert gate.ask(chat(stream=False), "/v1/messages").json["stop_reason"] == "end_turn"


def test_redirect_is_no_answer(gate: Gateway, engine: Scripted) -> None:
    """It was passed on and counted as `ok`; SDKs follow it, to the engine itself."""
    engine.say(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\n" + sized(b""))
    reply = gate.ask(chat(stream=False), x_request_id="elsewhere")
    assert (reply.status, reply.error["code"]) == (502, "engine_failed")
    assert "location" not in reply.headers
    assert gate.logged("elsewhere")["reason"] == "engine_failed"


@pytest.mark.parametrize("stream", [True, False])
def test_key_that_the_engine_wants_is_not_the_callers_affair(gate: Gateway, engine: Scripted, stream: bool) -> None:
    """Callers with a right key were told that it is wrong, and no objective was missed."""
    engine.say(JSON.replace(b"200 OK", b"401 Unauthorized") + sized(b'{"error":"Unauthorized"}'))
    missed = gate.metric("api_slo_requests_total", result="refused")
    reply = gate.ask(chat(stream=stream))
    assert (reply.status, reply.error["code"]) == (502, "engine_failed")
    assert "ENGINE_API_KEY" in reply.error["message"]
    gate.until_counted(missed + 1, "api_slo_requests_total", result="refused")


def test_tokens_of_a_long_answer_are_counted_wherever_it_says_them(gate: Gateway, engine: Scripted) -> None:
    """vLLM writes the log-probabilities of a prompt behind them, and then they were not found."""
    usage = {"prompt_tokens": 3000, "completion_tokens": 7}
    told = {"choices": [], "usage": usage, "prompt_logprobs": ["x" * 100] * 6000}
    engine.say(JSON + sized(json.dumps(told).encode()))
    assert gate.ask(chat(stream=False), x_request_id="long").json == told
    line = gate.logged("long")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3000, 7)
