"""What a connection may cost before its request is whole, and what is no request at all: each refused, by its reason.

Bytes on raw sockets. Nothing of them reaches the engine, holds a slot, or is counted under a name that a caller chose.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.books import Books, series
from tests.wire.client import CHAT, DONE, Client, chat, request
from tests.wire.gateway import Gateway, gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulated import Engine

BODY = json.dumps(chat()).encode()
LENGTH = b"content-length: %d" % len(BODY)
CHUNKED = b"transfer-encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
UPGRADE = (b"connection: upgrade", b"upgrade: h2c")
LINE = b"POST /v1/chat/completions HTTP/1.1"


def head(*lines: bytes, first: bytes = LINE, host: bytes = b"host: localhost") -> bytes:
    """A request's head; ``lines`` beside its host and type."""
    named = [host] if host else []
    return b"\r\n".join((first, *named, b"content-type: application/json", *lines, b"", b""))


def refusals(reason: str, status: int, count: int = 1) -> dict[str, float]:
    """What the books say of what never became a request."""
    labels = {"route": "other", "model": "other", "key": "anonymous", "status": str(status), "reason": reason}
    return {series("api_requests_total", labels): count}


@pytest.fixture
def untouched(gate: Gateway, engine: Engine) -> Iterator[Gateway]:
    """The gateway, and a check that nothing reached the engine."""
    seen = engine.state()["requests_seen"]
    yield gate
    assert engine.state()["requests_seen"] == seen


AMBIGUOUS = {
    "both lengths": head(LENGTH, CHUNKED) + CHUNKS,
    "both lengths, the other way": head(CHUNKED, LENGTH) + CHUNKS,
    "a length twice": head(LENGTH, LENGTH) + BODY,
    "two lengths": head(LENGTH, b"content-length: 5") + BODY,
    "a list of lengths": head(LENGTH + b", %d" % len(BODY)) + BODY,
    "a signed length": head(b"content-length: +%d" % len(BODY)) + BODY,
    "a length below nothing": head(b"content-length: -1") + BODY,
    "a length in hexadecimal": head(b"content-length: 0x10") + BODY,
    "a length of 23 digits": head(b"content-length: 99999999999999999999999") + BODY,
    "an empty length": head(b"content-length: ") + BODY,
    "a length with a space inside": head(b"content-length: 1 2") + BODY,
    "identity": head(b"transfer-encoding: identity") + CHUNKS,
    "chunked, identity": head(b"transfer-encoding: chunked, identity") + CHUNKS,
    "identity, chunked": head(b"transfer-encoding: identity, chunked") + CHUNKS,
    "gzip, chunked": head(b"transfer-encoding: gzip, chunked") + CHUNKS,
    "nearly chunked": head(b"transfer-encoding: xchunked") + CHUNKS,
    "chunked with a parameter": head(b"transfer-encoding: chunked;x=1") + CHUNKS,
    "quoted": head(b'transfer-encoding: "chunked"') + CHUNKS,
    "vertical tab": head(b"transfer-encoding: \x0bchunked") + CHUNKS,
    "chunked twice": head(CHUNKED, CHUNKED) + CHUNKS,
    "chunked, then identity": head(CHUNKED, b"transfer-encoding: identity") + CHUNKS,
    "chunked in HTTP/1.0": head(CHUNKED, first=LINE.replace(b"1.1", b"1.0")) + CHUNKS,
    "space before the colon": head(b"transfer-encoding : chunked") + CHUNKS,
    "folded": head(b"transfer-encoding:\r\n chunked") + CHUNKS,
    "folded elsewhere": head(LENGTH, b"x-a: b\r\n c") + BODY,
    "line feeds alone": head(LENGTH).replace(b"\r\n", b"\n") + BODY,
    "one line feed alone": head(LENGTH).replace(b"localhost\r\n", b"localhost\n") + BODY,
    "a line feed at the end": head(LENGTH)[:-2] + b"\n" + BODY,
    "a carriage return in a value": head(LENGTH, b"x-a: b\rc: d") + BODY,
    "a null in a value": head(LENGTH, b"x-request-id: a\0b") + BODY,
    "a null in a name": head(LENGTH, b"x-\0a: b") + BODY,
    "a control character": head(LENGTH, b"x-headgate-user: b\x01") + BODY,
    "no name": head(LENGTH, b": b") + BODY,
    "no colon": head(LENGTH, b"xxx") + BODY,
    "an odd name": head(LENGTH, b"x@a: b") + BODY,
    "no host": head(LENGTH, host=b"") + BODY,
    "two hosts": head(LENGTH, b"host: other") + BODY,
    "upgrade, identity": head(b"transfer-encoding: identity", *UPGRADE) + CHUNKS,
    "upgrade, both lengths": head(LENGTH, CHUNKED, *UPGRADE) + CHUNKS,
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a proxy's target with no path": head(LENGTH, first=b"POST http://evil.example HTTP/1.1") + BODY,
    "a proxy's target that is none": head(LENGTH, first=b"POST http://[::1/v1/chat/completions HTTP/1.1") + BODY,
    "a method in lower case": head(LENGTH, first=LINE.replace(b"POST", b"post")) + BODY,
    "a method that isn't": head(LENGTH, first=LINE.replace(b"POST", b"FOO")) + BODY,
    "bytes beyond ASCII in the path": head(LENGTH, first=b"POST /v1/chat/\xff HTTP/1.1") + BODY,
    "HTTP/2's first words": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": head(LENGTH, first=LINE.replace(b"1.1", b"9.9")) + BODY,
}


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_head_that_two_readers_could_understand_in_two_ways_is_refused(untouched: Gateway, raw: bytes) -> None:
    books = Books(untouched)
    with untouched.client() as client:
        client.send(raw + request(CHAT, chat()))
        reply = client.reply()
        assert (reply.status, reply.headers["x-headgate-reason"]) == (400, "invalid_request")
        assert (reply.headers["connection"], reply.error["type"]) == ("close", "invalid_request_error")
        assert client.closed(), "and what came behind it is no second request"
    books.until(refusals("invalid_request", 400))


@pytest.mark.parametrize("digits", [21, 5000])
def test_length_with_more_digits_than_any_has_is_refused(untouched: Gateway, digits: int) -> None:
    """Python reads no number of more than 4,300 digits: it was a 502, and an exception in the log."""
    with untouched.client() as client:
        client.send(head(b"content-length: " + str(len(BODY)).zfill(digits).encode()) + BODY)
        reply = client.reply()
        assert (reply.status, reply.error["code"]) == (400, "invalid_request")
        assert "content-length" in reply.error["message"]
        client.send(request("/health", method="GET"))
        assert client.reply().json["status"] == "ok", "its body was read as its length says"


CHUNKINGS = {
    "a size with 0x": b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "a signed size": b"+%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "a size below nothing": b"-1\r\n%b\r\n0\r\n\r\n" % BODY,
    "a size beyond 64 bits": b"fffffffffffffffff\r\n%b\r\n0\r\n\r\n" % BODY,
    "no size": b"\r\n%b\r\n0\r\n\r\n" % BODY,
    "a space behind the size": b"%x \r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "line feeds alone": b"%x\n%b\n0\n\n" % (len(BODY), BODY),
    "no line end behind the data": b"%x\r\n%b0\r\n\r\n" % (len(BODY), BODY),
    "a line end in an extension's quotes": b'%x;a="b\r\n"\r\n%b\r\n0\r\n\r\n' % (len(BODY), BODY),
    "a length as a trailer": b"%x\r\n%b\r\n0\r\ncontent-length: 3\r\n\r\n" % (len(BODY), BODY),
    "a coding as a trailer": b"%x\r\n%b\r\n0\r\ntransfer-encoding: chunked\r\n\r\n" % (len(BODY), BODY),
}


@pytest.mark.parametrize("offers", [(), UPGRADE], ids=["", "upgrade"])
@pytest.mark.parametrize("chunks", CHUNKINGS.values(), ids=CHUNKINGS)
def test_body_in_odd_chunks_is_refused_on_its_route(
    untouched: Gateway, chunks: bytes, offers: tuple[bytes, ...]
) -> None:
    """It was counted as a client that left; behind an offered upgrade it was an exception in the server's log."""
    books = Books(untouched)
    with untouched.client() as client:
        client.send(head(CHUNKED, *offers) + chunks)
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert reply.error["code"] == "invalid_request"
        assert client.closed()
    grown = {"route": CHAT, "model": "other", "key": "anonymous", "status": "400", "reason": "invalid_request"}
    refused = {"reason": "invalid_request", "priority": "normal", "model": "other", "key": "anonymous"}
    books.until({series("api_requests_total", grown): 1, series("api_refusals_total", refused): 1})


def test_body_that_breaks_after_its_refusal_gets_no_second_answer(untouched: Gateway) -> None:
    """A 400 followed the 415: the answer to the connection's next request, as a proxy would read it."""
    with untouched.client() as client:
        client.send(head(CHUNKED).replace(b"application/json", b"text/plain"))
        assert client.reply().status == 415
        client.send(b"zz\r\n")
        assert client.closed()


@pytest.mark.parametrize("behind", [b"\0\0", b"POST /v1/chat/completions HTTP/1.1\r\nx y: z\r\n\r\n"])
def test_garbage_behind_a_request_does_not_stand_before_its_answer(gate: Gateway, behind: bytes) -> None:
    """Its 400 was written at once, and so was read as the answer to the request before it."""
    with gate.client() as client:
        client.send(request(CHAT, chat()) + behind)
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert reply.events[-1] == DONE
        assert client.closed()


def test_second_body_behind_an_offered_upgrade_is_not_added_to_the_first(gate: Gateway, engine: Engine) -> None:
    """What came behind such a request was read by a parser that knows bodies only: it made one body of two."""
    seen = engine.state()["requests_seen"]
    with gate.client() as client:
        client.send(head(LENGTH, *UPGRADE) + BODY + request(CHAT, chat(n=2)))
        assert client.reply().events[-1] == DONE
        assert client.closed()
    assert engine.state()["requests_seen"] == seen + 1


def test_trailer_is_no_header(gate: Gateway) -> None:
    """A proxy that sets or removes headers by their names has not seen what comes behind a body."""
    with gate.client() as client:
        client.send(head(CHUNKED) + CHUNKS[:-2] + b"x-request-id: forged\r\norigin: http://evil.example\r\n\r\n")
        assert client.reply().headers["x-request-id"].startswith("hg-")
        assert client.ask(CHAT, chat()).headers["x-request-id"].startswith("hg-")


@pytest.fixture(scope="module")
def strict(_engine: Engine) -> Iterator[Gateway]:
    """A gateway of sixteen connections and short heads."""
    with gateway(_engine, "--max-connections", "16", "--max-head-bytes", "4096") as running:
        yield running


@pytest.fixture(scope="module")
def impatient(_engine: Engine) -> Iterator[Gateway]:
    """A gateway that waits a second for a head, and for a body."""
    with gateway(_engine, "--head-timeout-s", "1", "--body-timeout-s", "1") as running:
        yield running


def test_head_that_is_too_long_is_431(strict: Gateway) -> None:
    most = 4096 - len(head(LENGTH, b"x-long: "))
    with strict.client() as client:
        client.send(head(LENGTH, b"x-long: " + b"x" * most) + BODY)
        assert client.reply().events[-1] == DONE, "just as long as it may be"
        client.send(head(LENGTH, b"x-long: " + b"x" * (most + 1)) + BODY)
        refused(client, 431, "head_too_large")


@pytest.mark.parametrize("piece", [1000, 4095])
def test_head_that_is_too_long_is_431_in_pieces_too(strict: Gateway, piece: int) -> None:
    whole = b"GET /" + b"x" * 6000
    with strict.client() as client:
        with contextlib.suppress(OSError):  # it is refused before all is sent
            for at in range(0, len(whole), piece):
                client.send(whole[at : at + piece])
        refused(client, 431, "head_too_large")


def test_head_of_very_many_headers_is_431(strict: Gateway) -> None:
    for count, status in ((125, 200), (126, 431)):  # beside host, content-type, content-length
        with strict.client() as client:
            client.send(head(LENGTH, *(b"x-%d: y" % i for i in range(count))) + BODY)
            assert client.reply().status == status


def test_large_body_is_no_long_head(strict: Gateway) -> None:
    """Head and body come in one segment, and in many."""
    with strict.client() as client:
        assert client.ask(CHAT, chat(text="x" * 3000, pad="x" * 300_000)).status == 200
        assert client.ask(CHAT, chat(pad="x" * 20_000)).status == 200


def test_head_that_does_not_arrive_is_408(impatient: Gateway) -> None:
    with impatient.client() as client:
        client.send(head(LENGTH)[:-10])
        refused(client, 408, "request_incomplete")
    with impatient.client() as client:
        assert client.ask(CHAT, chat()).status == 200
        client.send(b"G")
        refused(client, 408, "request_incomplete")


def test_head_that_comes_a_byte_at_a_time_is_408(impatient: Gateway) -> None:
    """Each byte put the end off: a connection could be held for ever."""
    with impatient.client() as client:

        def more() -> bool:
            try:
                client.send(b"x")
            except OSError:
                return True
            return False

        client.send(b"GET /")
        wait_until(more, "the gateway's end of it", within_s=5.0)


def test_connection_that_asks_for_nothing_is_closed_without_a_word(impatient: Gateway) -> None:
    with impatient.client() as client:
        assert client.closed()
    with impatient.client() as client:
        assert client.ask(CHAT, chat()).status == 200
        client.send(b"\r\n\r\n")
        assert client.closed()


@pytest.mark.parametrize("path", [CHAT, "/console/burst"])
def test_body_that_does_not_arrive_is_408(impatient: Gateway, path: str) -> None:
    books = Books(impatient)
    with impatient.client() as client:
        client.send(request(path, chat())[:-1])
        refused(client, 408, "request_incomplete")
    if path == CHAT:
        refusal = {"reason": "request_incomplete", "priority": "normal", "model": "other", "key": "anonymous"}
        ended = {"route": CHAT, "model": "other", "key": "anonymous", "status": "408", "reason": "request_incomplete"}
        books.until({series("api_requests_total", ended): 1, series("api_refusals_total", refusal): 1})


def test_body_that_nobody_waits_for_does_not_hold_its_connection(impatient: Gateway) -> None:
    """The body of a request that was refused, or that asks for none, was waited for, for ever."""
    with impatient.client() as client:
        client.send(request("/health", b"x" * 100, method="GET")[:-1])
        assert client.reply().status == 200
        assert client.closed()
    with impatient.client() as client:
        client.send(request(CHAT, b"x" * 100, {"content-type": "text/plain"})[:-1])
        assert client.reply().status == 415
        assert client.closed()


def test_framing_without_end_is_cut_off(strict: Gateway) -> None:
    """An extension, or a trailer, of many megabytes was read and kept."""
    for endless in (b"5;x=", b"0\r\nx: "):
        with strict.client() as client:
            client.send(head(CHUNKED) + endless)
            with pytest.raises(OSError):  # noqa: PT011  reset, or a broken pipe
                client.send(b"y" * 100_000_000)


def test_connection_too_many_is_503_and_the_next_after_a_leaving_is_served(strict: Gateway) -> None:
    assert strict.get("/health").status_code == 200  # its connection is one of them
    wait_until(lambda: served(strict), "those of other tests have gone")
    clients: list[Client] = []
    try:
        for _ in range(15):
            clients.append(strict.client())
            assert clients[-1].ask(CHAT, chat()).status == 200
        with strict.client() as client:
            reply = client.reply()
            assert (reply.status, reply.error["code"]) == (503, "too_many_connections")
            assert 1 <= int(reply.headers["retry-after"]) <= 5
            assert client.closed()
        clients.pop().close()
        wait_until(lambda: served(strict), "there is room again")
    finally:
        for client in clients:
            client.close()
    turned_away = strict.metric("api_requests_total", status="503", reason="too_many_connections")
    assert turned_away >= 1
    assert strict.metric("api_refusals_total", reason="too_many_connections") == turned_away


def test_page_and_status_say_that_there_are_too_many_connections(engine: Engine) -> None:
    """While clients were turned away "all 8 slots are free, a newcomer starts at once" stood there."""
    with gateway(engine, "--max-connections", "1") as gate:
        gate.status()  # its connection is the one
        with gate.client() as client:
            assert client.reply().status == 503
        wait_until(lambda: gate.status()["standing"]["kind"] == "refusing", "the next second has seen it")
        status = gate.status()
        assert status["refusals"] == {"too_many_connections": 1}
        assert "1 was refused in the last 10 s (too_many_connections)" in status["standing"]["says"]
        assert "raise MAX_CONNECTIONS" in status["standing"]["advice"]


def served(gate: Gateway) -> bool:
    with gate.client() as client:
        try:
            client.send(request("/health", method="GET"))
            return client.reply().status == 200
        except ConnectionError:
            return False


def refused(client: Client, status: int, reason: str) -> None:
    reply = client.reply()
    assert (reply.status, reply.headers["x-headgate-reason"], reply.error["code"]) == (status, reason, reason)
    assert reply.headers["connection"] == "close"
    assert client.closed()


NUMBERS = [
    "-1",
    "true",
    '"5"',
    "1e400",
    "NaN",
    "-Infinity",
    "1.5",
    "1e2",
    str(2**70),
    "1" * 400,
    "9" * 5000,
    "[]",
    "{}",
]


@pytest.mark.parametrize("field", ["n", "max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_absurd_number_is_refused(untouched: Gateway, field: str) -> None:
    """A ``max_tokens`` of 2**70 went to the engine, and into what its caller's requests are expected to take."""
    body: dict[str, Any] = chat()
    del body["max_tokens"]
    for number in NUMBERS:
        reply = untouched.ask(f'{json.dumps(body)[:-1]}, "{field}": {number}}}'.encode())
        assert (reply.status, reply.error["code"]) == (400, "invalid_request"), number
        assert reply.error["param"] in (field, None)


@pytest.mark.parametrize("value", ["NaN", "1e400", "-1", "0", "1" * 30, "true", "+5", "\xb2", "1_0", "5.0"])
def test_absurd_deadline_is_refused(untouched: Gateway, value: str) -> None:
    assert untouched.ask(x_headgate_deadline_ms=value).error["code"] == "invalid_request"


@pytest.mark.parametrize("value", ["a b", "\xff", "x" * 129, " ", "\x7f"[:0] + "\t"])
def test_id_that_could_be_read_as_something_else_is_replaced(gate: Gateway, value: str) -> None:
    assert gate.ask(x_request_id=value).headers["x-request-id"].startswith("hg-")
    assert gate.ask(path="/nothing", x_request_id=value).headers["x-request-id"].startswith("hg-")


DANGEROUS = (
    *("/sleep", "/wake_up", "/is_sleeping", "/pause", "/resume", "/is_paused", "/collective_rpc", "/server_info"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/invocations", "/ping", "/load", "/version"),
    *("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/start_profile", "/stop_profile"),
    *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/inference/v1/generate", "/abort_requests"),
    *("/tokenizer_info", "/update_weights", "/init_weight_transfer_engine", "/get_world_size"),
    *("/v1/realtime", "/v1/files", "/v1/batches", "/simulator/faults", "/simulator/state"),
)


def disguises(path: str) -> list[str]:
    name = path.lstrip("/")
    return [
        *(path, f"/{path}", f"//{name}", f"/.{path}", f"/v1/..{path}", f"/v1/chat/completions/..{path}", path.upper()),
        *(f"/%2e%2e{path}", f"/%2f{name}", f"{path}/", f"{path}%00", f"{path};x", f"{path}%20", f"/v1/chat/..;{path}"),
        *(f"/v1/chat/completions%2f..{path}", f"http://127.0.0.1{path}", f"/engines/e0/metrics/..{path}"),
        *(f"/engines/..%2f..{path}/metrics", f"/v1/models/..{path}", path.replace("_", "%5f")),
    ]


@pytest.mark.parametrize("path", DANGEROUS)
def test_engines_dangerous_endpoints_are_not_there_under_any_name(untouched: Gateway, path: str) -> None:
    with untouched.client() as client:
        for disguise in disguises(path):
            for method in ("POST", "GET"):
                client.send(request(disguise, {}, method=method))
                reply = client.reply()
                assert reply.status in (404, 405), (method, disguise, reply.body)
                assert reply.error["code"] in ("not_found", "invalid_request")
