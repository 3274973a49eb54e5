"""One connection, several requests: kept alive, pipelined, closed, of an older HTTP, or sent bit by bit."""

from __future__ import annotations

import pytest

from tests.simulated import Engine
from tests.wire.client import CHAT, DONE, chat, request
from tests.wire.gateway import Gateway


def test_connection_is_kept_alive_over_streams_whole_replies_and_refusals(gate: Gateway) -> None:
    with gate.client() as client:
        for body in (chat(), chat(stream=False), {}, chat() | {"model": "none"}, chat(n=0), chat()):
            reply = client.ask(CHAT, body)
            assert reply.ended
            assert "connection" not in reply.headers
        client.send(request("/health", method="GET"))
        assert client.reply().json["status"] == "ok"


def test_second_request_of_a_pipeline_is_not_taken_and_the_answer_says_close(gate: Gateway, engine: Engine) -> None:
    seen = engine.state()["requests_seen"]
    with gate.client() as client:
        client.send(request(CHAT, chat()) * 3)
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert reply.events[-1] == DONE
        assert client.closed(), "so that the client sends it again"
    assert engine.state()["requests_seen"] == seen + 1


def test_pipelined_request_that_comes_while_the_first_is_answered_closes_after_it(gate: Gateway) -> None:
    with gate.client() as client:
        client.post(CHAT, chat(100)).until_events(2)
        client.post(CHAT, chat())
        reply = client.reply()
        assert reply.events[-1] == DONE
        assert client.closed()


def test_client_that_asks_for_close_gets_it(gate: Gateway) -> None:
    with gate.client() as client:
        reply = client.ask(CHAT, chat(), connection="close")
        assert reply.headers["connection"] == "close"
        assert reply.ended
        assert client.closed()


@pytest.mark.parametrize("stream", [True, False])
def test_client_of_http_1_0_is_answered_without_chunks(gate: Gateway, stream: bool) -> None:
    with gate.client() as client:
        client.send(request(CHAT, chat(stream=stream), version="1.0"))
        reply = client.reply()
        assert "transfer-encoding" not in reply.headers
        assert reply.headers["connection"] == "close"
        if stream:
            assert reply.events[-1] == DONE
        else:
            assert reply.json["choices"]
        assert client.closed()


def test_stream_cut_short_ends_with_its_error_for_http_1_0_too(gate: Gateway, engine: Engine) -> None:
    engine.faults({"kind": "cut", "after_events": 3})
    with gate.client() as client:
        client.send(request(CHAT, chat(), version="1.0"))
        reply = client.reply()
        assert reply.data[-1]["error"]["code"] == "engine_failed"
        assert reply.events[-1] == DONE


def test_expect_100_continue_is_answered_before_the_body(gate: Gateway) -> None:
    whole = request(CHAT, chat(), {"expect": "100-continue"})
    head, _, body = whole.partition(b"\r\n\r\n")
    with gate.client() as client:
        client.send(head + b"\r\n\r\n")
        assert client.head().status == 100
        client.send(body)
        assert client.reply().events[-1] == DONE
        assert client.ask(CHAT, chat()).status == 200


def test_refusal_instead_of_100_continue_closes_the_connection(gate: Gateway, engine: Engine) -> None:
    """Whether the body follows is the client's choice: what comes next could be it, or another request."""
    seen = engine.state()["requests_seen"]
    whole = request(CHAT, b"x" * 50, {"expect": "100-continue", "content-type": "text/plain"})
    with gate.client() as client:
        client.send(whole[:-50])
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (415, "close")
        assert client.closed()
    assert engine.state()["requests_seen"] == seen


def test_unread_body_of_a_refused_request_is_not_taken_for_the_next_one(gate: Gateway, engine: Engine) -> None:
    smuggled = request(CHAT, chat())
    seen = engine.state()["requests_seen"]
    with gate.client() as client:
        whole = request(CHAT, smuggled * 50, {"content-type": "text/plain"})
        client.send(whole[: len(whole) // 2])
        assert client.reply().status == 415
        client.send(whole[len(whole) // 2 :])
        assert client.ask(CHAT, chat()).status == 200
    assert engine.state()["requests_seen"] == seen + 1


def test_body_sent_bit_by_bit_arrives(gate: Gateway) -> None:
    whole = request(CHAT, chat())
    with gate.client() as client:
        for at in range(0, len(whole), 7):
            client.send(whole[at : at + 7])
        assert client.reply().events[-1] == DONE


def test_chunked_body_arrives(gate: Gateway) -> None:
    head, _, body = request(CHAT, chat(), {"transfer-encoding": "chunked", "content-length": ""}).partition(b"\r\n\r\n")
    pieces = [body[at : at + 10] for at in range(0, len(body), 10)]
    with gate.client() as client:
        client.send(head + b"\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n")
        assert client.reply().events[-1] == DONE
        assert client.ask(CHAT, chat()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_request_that_offers_http_2_is_answered(gate: Gateway, chunked: bool, apart: bool) -> None:
    """Java's client offers it with every request; its body was passed over and it got a 400 for having none."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    if chunked:
        offer |= {"transfer-encoding": "chunked", "content-length": ""}
    head, _, body = request(CHAT, chat(), offer).partition(b"\r\n\r\n")
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    pieces = [head + b"\r\n\r\n", body[:20], body[20:]] if apart else [head + b"\r\n\r\n" + body]
    with gate.client() as client:
        for piece in pieces:
            client.send(piece)
        assert client.reply().events[-1] == DONE
        assert client.closed()


@pytest.mark.parametrize(
    "smuggling",
    [
        {"transfer-encoding": "chunked"},  # beside a content-length
        {"content-length": "5, 6"},
        {"content-length": "+5"},
        {"transfer-encoding": "chunked, identity", "content-length": ""},
    ],
)
def test_ambiguous_length_is_refused(gate: Gateway, engine: Engine, smuggling: dict[str, str]) -> None:
    seen = engine.state()["requests_seen"]
    with gate.client() as client:
        client.send(request(CHAT, chat(), smuggling))
        assert client.reply().status == 400
        assert client.closed()
    assert engine.state()["requests_seen"] == seen
