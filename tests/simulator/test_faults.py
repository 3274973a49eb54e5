"""Each fault over a socket: what the other side sees, and that the engine's work ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.simulated import simulated_engine

if TYPE_CHECKING:
    from tests.simulated import Engine

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
STREAM = CHAT | {"stream": True}


def raw(engine: Engine, body: dict[str, Any] = STREAM) -> tuple[bytes, str]:
    """All bytes of a reply on a connection of its own, and how it ended: ``end``, ``close`` or ``reset``.

    Chunked framing is left in; ``end`` is its last chunk.
    """
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", engine.port), timeout=5) as sock:
        sock.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content)
        try:
            while piece := sock.recv(65536):
                received += piece
                if received.endswith(b"\r\n0\r\n\r\n"):
                    return received, "end"
        except ConnectionResetError:
            return received, "reset"
    return received, "close"


def data_events(received: bytes) -> int:
    return received.count(b"data: ")


def test_the_next_requests_get_an_error_and_then_all_is_well(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "error", "times": 2, "status": 503, "message": "no luck"})
    replies = [client.post("/v1/chat/completions", json=CHAT) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [503, 503, 200]
    assert replies[0].json()["error"]["message"] == "no luck"


def test_a_fault_lets_some_requests_through_and_hits_only_its_path(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "error", "after_requests": 1, "path": "/v1/embeddings"})
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    statuses = [client.post("/v1/embeddings", json={"input": "a"}).status_code for _ in range(3)]
    assert statuses == [200, 500, 200]


def test_an_error_can_be_the_first_event_under_200(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "error_first"})
    reply = client.post("/v1/chat/completions", json=STREAM)
    first, done, rest = reply.text.split("\n\n")
    assert reply.status_code == 200
    assert json.loads(first.removeprefix("data: "))["error"]["code"] == 500
    assert (done, rest) == ("data: [DONE]", "")
    engine.state(inflight=0, blocks_used=0)


def test_an_error_can_come_in_the_middle(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "error_event", "after_events": 4, "times": None})
    blocks = client.post("/v1/chat/completions", json=STREAM).text.split("\n\n")
    assert ["error" in block for block in blocks[:5]] == [False] * 4 + [True]
    named = client.post("/v1/messages", json=STREAM).text.split("\n\n")
    assert named[4].startswith("event: error\n")
    assert "[DONE]" not in named[-2]


@pytest.mark.parametrize(("kind", "ending"), [("cut", "close"), ("reset", "reset")])
def test_a_stream_is_cut_after_so_many_events(engine: Engine, kind: str, ending: str) -> None:
    engine.faults({"kind": kind, "after_events": 3})
    received, ended = raw(engine)
    assert data_events(received) == 3
    assert ended == ending
    engine.state(inflight=0, blocks_used=0)
    assert raw(engine)[1] == "end"


@pytest.mark.parametrize(("kind", "ending"), [("cut", "close"), ("reset", "reset"), ("garbage", "close")])
def test_a_whole_reply_is_cut_in_half(engine: Engine, kind: str, ending: str) -> None:
    engine.faults({"kind": kind})
    received, ended = raw(engine, CHAT)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert ended == ending
    assert body.startswith(b'{"id"')
    assert (b"not http at all" in body) == (kind == "garbage")
    assert len(body) < length


def test_garbage_in_the_middle_is_no_http(engine: Engine) -> None:
    engine.faults({"kind": "garbage", "after_events": 2})
    received, ended = raw(engine)
    assert data_events(received) == 2
    assert b"not http at all" in received
    assert ended == "close"


def test_garbage_can_stand_for_the_head(engine: Engine) -> None:
    engine.faults({"kind": "garbage_head", "times": 2})
    for body in (STREAM, CHAT):
        received, ended = raw(engine, body)
        assert not received.startswith(b"HTTP")
        assert ended == "close"


@pytest.mark.parametrize("kind", ["stall", "slow_head"])
def test_a_stream_stalls_and_goes_on(engine: Engine, client: httpx.Client, kind: str) -> None:
    engine.faults({"kind": kind, "seconds": 0.3, "after_events": 3})
    begun = time.monotonic()
    gaps = []
    with client.stream("POST", "/v1/chat/completions", json=STREAM) as reply:
        for _ in reply.iter_raw():
            gaps.append(time.monotonic() - begun)
            begun = time.monotonic()
    assert max(gaps) > 0.25
    assert (gaps[0] > 0.25) == (kind == "slow_head")


def test_one_event_can_be_giant(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "giant", "after_events": 2, "bytes": 300_000})
    blocks = client.post("/v1/chat/completions", json=STREAM).text.split("\n\n")
    sizes = [len(block) for block in blocks]
    assert sizes[2] > 300_000
    assert max(sizes[:2] + sizes[3:]) < 1000
    assert json.loads(blocks[2].removeprefix("data: "))["choices"][0]["delta"]["content"] == "x" * 300_000


def test_events_dribble_in_pieces(engine: Engine, client: httpx.Client) -> None:
    plain = client.post("/v1/chat/completions", json=CHAT).json()
    engine.faults({"kind": "dribble", "bytes": 5, "times": 2})
    received, ended = raw(engine)
    assert ended == "end"
    assert received.count(b"\r\n5\r\n") > 20
    *chunks, done, _ = client.post("/v1/chat/completions", json=STREAM).text.split("\n\n")
    deltas = [json.loads(chunk.removeprefix("data: "))["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta["content"] for delta in deltas) == plain["choices"][0]["message"]["content"]
    assert done == "data: [DONE]"


def test_lines_can_end_in_crlf_with_comments_between(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "crlf"}, {"kind": "comment"})
    content = client.post("/v1/chat/completions", json=STREAM).content
    assert content.count(b"\n") == content.count(b"\r\n")
    blocks = content.split(b"\r\n\r\n")
    assert blocks[0] == b": keep-alive"
    assert blocks[1].startswith(b"data: ")


def test_faults_can_be_seen_and_cleared(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "cut", "after_events": 3, "times": 2}, {"kind": "error"})
    listed = client.get("/simulator/faults").json()
    assert [fault["kind"] for fault in listed] == ["cut", "error"]
    engine.clear_faults()
    assert client.get("/simulator/faults").json() == []
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.mark.parametrize("wrong", ['{"kind":"nonsense"}', '{"kind":"cut","after":3}', "{", '{"kind":"slow_start"}'])
def test_a_wrong_fault_is_refused(client: httpx.Client, wrong: str) -> None:
    assert client.post("/simulator/faults", content=wrong).status_code == 400


def test_a_hang_makes_no_progress_while_health_is_well() -> None:
    with simulated_engine() as engine, ThreadPoolExecutor() as pool:
        engine.faults({"kind": "hang"})
        waiting = pool.submit(httpx.post, f"{engine.url}/v1/chat/completions", json=CHAT, timeout=10)
        engine.state(inflight=1)
        before = engine.metric("vllm:generation_tokens_total")
        assert httpx.get(f"{engine.url}/health").status_code == 200
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(f"{engine.url}/v1/chat/completions", json=CHAT, timeout=0.2)
        assert engine.metric("vllm:generation_tokens_total") == before
        assert engine.state(inflight=2)["aborted"] == 0, "an engine that hangs aborts nothing either"
        engine.clear_faults()
        assert waiting.result().status_code == 200
        assert engine.state(inflight=0)["aborted"] == 1


def test_a_hard_hang_answers_nothing_for_as_long_as_asked() -> None:
    with simulated_engine() as engine, httpx.Client(base_url=engine.url) as http:
        engine.faults({"kind": "hang_hard", "seconds": 2.5})

        def ask_until_it_hangs() -> None:
            for _ in range(10_000):  # it hangs a moment after it has said that it will
                http.get("/health", timeout=0.2)

        with pytest.raises(httpx.ReadTimeout):
            ask_until_it_hangs()
        assert http.get("/health", timeout=20).status_code == 200


@pytest.mark.parametrize(("exit_code", "status"), [(None, -signal.SIGKILL), (0, 0), (3, 3)])
def test_a_crash_in_the_middle_of_a_stream(exit_code: int | None, status: int) -> None:
    fault: dict[str, Any] = {"kind": "crash", "after_requests": 1, "after_events": 3, "exit_code": exit_code}
    with simulated_engine("--speed", "10", "--fault", json.dumps(fault)) as engine:
        assert raw(engine)[1] == "end"
        received, ended = raw(engine)
        assert data_events(received) == 3
        assert ended in ("close", "reset")
        assert engine.process.wait(5) == status


def test_a_crash_asked_for_happens_at_once() -> None:
    with simulated_engine() as engine:
        engine.faults({"kind": "crash", "exit_code": 0})
        assert engine.process.wait(5) == 0


def test_a_fault_hits_only_requests_with_its_text(engine: Engine, client: httpx.Client) -> None:
    engine.faults({"kind": "error", "times": None, "text": "unlucky"})
    unlucky = CHAT | {"messages": [{"role": "user", "content": "the unlucky one"}]}
    statuses = [client.post("/v1/chat/completions", json=body).status_code for body in (CHAT, unlucky, CHAT)]
    assert statuses == [200, 500, 200]


def test_a_pause_ends_when_the_client_leaves(engine: Engine) -> None:
    """The request counted as open until the pause was over."""
    engine.faults({"kind": "slow_head", "seconds": 3600})
    content = json.dumps(STREAM).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", engine.port), timeout=5) as sock:
        sock.sendall(head + b"content-length: %d\r\n\r\n" % len(content) + content)
        engine.state(open=1)
    engine.state(open=0)


def test_a_connection_that_its_client_has_closed_is_not_counted_among_those_at_once(engine: Engine) -> None:
    """A gateway that gives a slot to the next one as it closes the last is not seen over its cap."""
    content = json.dumps(STREAM | {"max_tokens": 2000}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", engine.port), timeout=5) as sock:
            sock.sendall(head + b"content-length: %d\r\n\r\n" % len(content) + content)
            assert sock.recv(1)
    assert engine.state(open=0)["max_open_seen"] == 1
