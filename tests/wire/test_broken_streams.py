"""An engine that breaks: a stream that it cut short never looks like one that ended well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.client import CHAT, DONE, MODEL, Reply, chat, data_of
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway, wait_until
from tests.wire.scripted import TRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages")


def body(path: str, tokens: int = 20, *, stream: bool = True) -> dict[str, Any]:
    """A request that each of these APIs takes."""
    return chat(tokens, stream=stream, prompt="Hello", input="Hello", max_output_tokens=tokens)


def last_error(reply: Reply, path: str) -> dict[str, Any]:
    """The error that the stream ends with, which must be told in the API's own shape and once."""
    assert reply.status == 200
    assert reply.ended, "the error was told, so HTTP's own end is there"
    events = [event for event in reply.events if not event.startswith(b":")]
    named = path in ("/v1/responses", "/v1/messages")
    if named:
        assert DONE not in events
        *before, last = events
        assert last.startswith(b"event: error\n")
    else:
        *before, last, done = events
        assert done == DONE
    assert not any(event.startswith(b"event: error") or b'"error":' in event for event in before)
    told = data_of(last)
    if path == "/v1/messages":
        assert told["type"] == "error"
    if path == "/v1/responses":
        assert told["type"] == "error"
        return dict(told)
    return dict(told["error"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["cut", "reset", "garbage"])
def test_stream_that_the_engine_cut_ends_in_an_error_event(gate: Gateway, engine: Engine, kind: str, path: str) -> None:
    before = gate.metric("api_requests_total", route=path, status="200", reason="engine_failed")
    engine.faults({"kind": kind, "after_events": 8})
    reply = gate.ask(body(path), path)
    error = last_error(reply, path)
    assert "cut short" in error["message"]
    assert error["code"] == "engine_failed"
    gate.until_counted(before + 1, route=path, status="200", reason="engine_failed")
    gate.until(active=0)
    assert gate.ask(body(path), path).status == 200, "the engine is asked again"


@pytest.mark.parametrize("path", PATHS)
def test_error_event_of_the_engine_is_passed_and_ends_the_stream(gate: Gateway, engine: Engine, path: str) -> None:
    """A flat error event of /v1/responses was not known for one, and a second error was told after it."""
    before = gate.metric("api_requests_total", route=path, status="200", reason="engine_failed")
    engine.faults({"kind": "error_event", "after_events": 8, "message": "out of luck"})
    error = last_error(gate.ask(body(path), path), path)
    assert error["message"] == "out of luck", "the engine's own words"
    gate.until_counted(before + 1, route=path, status="200", reason="engine_failed")


@pytest.mark.parametrize("path", PATHS)
def test_error_as_the_first_event_becomes_the_status(gate: Gateway, engine: Engine, path: str) -> None:
    """With /v1/responses it was a stream with status 200."""
    first = {"/v1/responses": {"after_events": 0}}.get(path, {})
    engine.faults({"kind": "error_first", "message": "no room", **first})
    reply = gate.ask(body(path), path)
    assert reply.status == 500
    assert reply.error["message"] == "no room"
    assert reply.headers["x-headgate-reason"] == "engine_failed"
    assert reply.headers["content-type"] == "application/json"


def test_aborted_answer_never_looks_well_ended() -> None:
    """vLLM ends what runs with finish_reason abort (and status 200) when it is told to stop."""
    with ExitStack() as stack:
        engine = stack.enter_context(simulated_engine())
        gate = stack.enter_context(gateway(engine))
        clients = {path: stack.enter_context(gate.client()) for path in PATHS[:3]}
        for path, client in clients.items():
            client.post(path, body(path, 3000)).until_events(8)
        engine.process.terminate()
        for path, client in clients.items():
            assert "abort" in last_error(client.reply(), path)["message"], path


def test_whole_answer_that_was_aborted_is_an_error() -> None:
    with simulated_engine() as engine, gateway(engine, "--wake-timeout-s", "1") as gate, gate.client() as client:
        client.post(CHAT, chat(3000, stream=False))
        engine.state(running=1)
        engine.process.terminate()
        assert client.reply().status >= 500


def test_stream_without_its_end_is_an_error(engine: Engine, gate: Gateway) -> None:
    """[DONE] is what says that a stream is whole: an engine that only closes the body has not said it."""
    # A reset of the connection after the last token, before [DONE].
    engine.faults({"kind": "cut", "after_events": 6})
    reply = gate.ask(chat(5))
    assert [choice["finish_reason"] for chunk in reply.data for choice in chunk.get("choices", ())][-1] == "length"
    assert last_error(reply, CHAT)["code"] == "engine_failed"


@pytest.mark.parametrize("kind", ["cut", "reset", "garbage"])
def test_whole_reply_that_broke_before_its_head_went_out_is_tried_once_more(
    gate: Gateway, engine: Engine, kind: str
) -> None:
    seen = engine.state()["requests_seen"]
    engine.faults({"kind": kind})
    reply = gate.ask(chat(3, stream=False))
    assert (reply.status, reply.ended) == (200, True)
    assert engine.state()["requests_seen"] == seen + 2


@pytest.fixture(scope="module")
def quick() -> Iterator[tuple[Gateway, Engine]]:
    """A pair that makes long answers in no time."""
    with simulated_engine(*ROOMY, "--speed", "200") as engine, gateway(engine, "--max-active", "4") as gate:
        yield gate, engine


@pytest.mark.parametrize("kind", ["cut", "reset", "garbage"])
def test_long_whole_reply_cut_after_its_head_is_closed_without_its_end(
    quick: tuple[Gateway, Engine], kind: str
) -> None:
    gate, engine = quick
    before = gate.counted(status="200", reason="engine_failed")
    engine.faults({"kind": kind})
    reply = gate.ask(chat(4000, stream=False, n=40))
    assert reply.status == 200
    assert not reply.ended
    assert int(reply.headers["content-length"]) > len(reply.body) > 256 * 1024
    gate.until_counted(before + 1, route=CHAT, status="200", reason="engine_failed")


def test_long_whole_reply_passes_with_its_tokens_counted(quick: tuple[Gateway, Engine]) -> None:
    """The details inside `usage` hid its figures: they were looked for up to the first closing brace."""
    gate, _ = quick
    reply = gate.ask(chat(4000, stream=False, n=40), x_request_id="long")
    assert reply.ended
    assert len(reply.body) > 256 * 1024
    line = gate.logged("long")
    assert (line["completion_tokens"], line["estimated"]) == (160_000, False)
    assert line["prompt_tokens"] == reply.json["usage"]["prompt_tokens"]


def test_long_answer_of_generate_has_its_own_shape(quick: tuple[Gateway, Engine]) -> None:
    """Over 256 KiB it was the engine's completion that came back."""
    gate, _ = quick
    reply = gate.ask({"prompt": "Hello", "max_tokens": 60_000}, "/generate")
    assert len(reply.body) > 200_000
    assert len(reply.json["text"].split()) == 60_000


@pytest.mark.parametrize("kind", ["garbage_head", "crash"])
@pytest.mark.parametrize("stream", [True, False])
def test_request_moves_to_another_engine(kind: str, stream: bool) -> None:
    with (
        simulated_engine() as first,
        simulated_engine() as second,
        gateway(f"{first.url},{second.url}", "--max-active", "1") as gate,
    ):
        wait_until(lambda: gate.status()["slots"]["max_active"] == 2, "both are ready")
        used = gate.ask().headers["x-headgate-engine"]
        {"e0": first, "e1": second}[used].faults({"kind": kind, "after_requests": 0})
        for _ in range(10):  # sooner or later one comes to that engine again
            assert gate.ask(chat(3, stream=stream)).status == 200
            if _failed_tries(gate):
                break
        assert _failed_tries(gate) == 1
        gate.until(active=0, queued=0)


def test_engine_that_looks_well_and_fails_everything_does_not_get_everything() -> None:
    """Each that it failed left it empty, so it got the next, and second tries too: a quarter of all were refused, with
    another engine that had room."""
    with (
        simulated_engine() as first,
        simulated_engine() as second,
        gateway(f"{first.url},{second.url}", "--max-active", "4") as gate,
        ThreadPoolExecutor(4) as pool,
    ):
        wait_until(lambda: gate.status()["slots"]["max_active"] == 8, "both are ready")
        first.faults({"kind": "garbage_head", "times": None})
        for _ in range(2):  # one after another they take turns: two find out
            while gate.ask().headers["x-headgate-engine"] != "e1":
                pass
        failed = _failed_tries(gate)
        assert [reply.status for reply in pool.map(lambda _: gate.ask(), range(60))] == [200] * 60
        assert _failed_tries(gate) == failed
        assert gate.ask({"model": MODEL, "prompt": "Hello"}, "/tokenize").status == 200


def _failed_tries(gate: Gateway) -> float:
    """A crash shows as either: its connection broke, or it was a stale one and there is no new one."""
    return sum(
        gate.metric("api_engine_requests_total", outcome=outcome) for outcome in ("engine_failed", "unreachable")
    )


def test_request_whose_engine_fails_again_and_again_is_engine_failed(gate: Gateway, engine: Engine) -> None:
    seen = engine.state()["requests_seen"]
    engine.faults({"kind": "garbage_head", "times": None})
    reply = gate.ask()
    assert (reply.status, reply.error["code"]) == (502, "engine_failed")
    assert "retry-after" not in reply.headers
    assert reply.headers["x-should-retry"] == "false"
    assert engine.state()["requests_seen"] == seen + TRIES
    gate.until(active=0, queued=0)


def test_engine_that_dies_before_the_first_byte_is_engine_failed_or_unavailable() -> None:
    with simulated_engine() as engine, gateway(engine, "--wake-timeout-s", "0.5") as gate:
        engine.faults({"kind": "crash", "after_requests": 0})
        reply = gate.ask()
        assert reply.status in (502, 503)
        assert reply.error["code"] in ("engine_failed", "engine_unavailable")
        gate.until(active=0, queued=0)


def test_500_of_a_living_engine_is_passed_on(gate: Gateway, engine: Engine) -> None:
    seen = engine.state()["requests_seen"]
    engine.faults({"kind": "error", "message": "that one I can't do"})
    reply = gate.ask()
    assert (reply.status, reply.error["message"]) == (500, "that one I can't do")
    assert engine.state()["requests_seen"] == seen, "it was told to this request alone"
    assert gate.ask().status == 200


def test_many_failures_at_once_do_not_freeze_the_gateway(gate: Gateway, engine: Engine) -> None:
    """A suspicion that came during a look left its waiters in a loop in which nobody else could run."""
    engine.faults({"kind": "error", "times": None})
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: gate.ask(), range(40)))
    assert {reply.status for reply in replies} <= {500, 502}
    assert gate.get("/health").status_code == 200


@pytest.mark.parametrize(("status", "reason"), [(400, "invalid_request"), (404, "not_found"), (422, "invalid_request")])
def test_refusal_of_the_engine_passes_on_unchanged(gate: Gateway, engine: Engine, status: int, reason: str) -> None:
    engine.faults({"kind": "error", "status": status, "message": "not like this"})
    reply = gate.ask(x_request_id="mine")
    assert (reply.status, reply.error["message"]) == (status, "not like this")
    assert reply.headers["x-headgate-reason"] == reason
    assert reply.headers["x-request-id"] == "mine"
    gate.until_counted(gate.counted(status=str(status)), route=CHAT, status=str(status), reason=reason)


@pytest.mark.parametrize("status", [429, 503])
def test_refusal_of_the_engine_for_load_says_when_to_come_back(gate: Gateway, engine: Engine, status: int) -> None:
    engine.faults({"kind": "error", "status": status})
    reply = gate.ask()
    assert reply.status == status
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert int(reply.headers["retry-after-ms"]) >= 1


def test_stale_connection_is_reopened_silently() -> None:
    """The engine closes idle connections after a second, and the gateway may use them for two."""
    with simulated_engine(env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "1"}) as engine, gateway(engine) as gate:
        assert gate.ask().status == 200
        for _ in range(2):
            # The gateway itself is asked until the engine has closed: nothing of its own tells us.
            wait_until(lambda: _connections(gate.process.pid, engine.port) == 0, "the idle connection is closed")
            assert gate.ask().status == 200
        assert _failed_tries(gate) == 0


def _connections(pid: int, port: int) -> int:
    """Connections of a process to this port that are established."""
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize("kind", ["dribble", "crlf", "comment"])
@pytest.mark.parametrize("path", PATHS)
def test_odd_but_legal_streams_arrive_whole(gate: Gateway, engine: Engine, kind: str, path: str) -> None:
    plain = gate.ask(body(path), path)
    engine.faults({"kind": kind})
    odd = gate.ask(body(path), path)
    assert odd.status == 200
    odd.body = odd.body.replace(b"\r\n", b"\n")
    assert _said(odd) == _said(plain)
    assert odd.figures is not None
    assert odd.figures["completion_tokens"] == 20
    assert "estimated" not in odd.figures


def _said(reply: Reply) -> str:
    """All text of the stream, whatever its API; an engine whose events were late joins them."""
    deltas = [told["delta"] for told in reply.data if isinstance(told.get("delta"), dict)]
    return reply.text or "".join(delta.get("text") or delta.get("thinking") or str(delta) for delta in deltas)


def test_request_timeout_before_the_first_byte_is_request_timeout() -> None:
    with (
        simulated_engine(*ROOMY, "--max-num-batched-tokens", "8") as engine,
        gateway(engine, "--request-timeout-s", "0.4") as gate,
    ):
        reply = gate.ask(chat(text="word" * 40_000))
        assert (reply.status, reply.error["code"]) == (504, "request_timeout")
        engine.state(inflight=0, open=0, aborted=1)
        gate.until(active=0)
        assert gate.counted(status="504", reason="request_timeout") == 1


def test_request_timeout_mid_stream_is_an_error_event(engine: Engine) -> None:
    with gateway(engine, "--request-timeout-s", "0.4") as gate:
        aborted = engine.state()["aborted"]
        reply = gate.ask(chat(4000))
        assert last_error(reply, CHAT)["code"] == "request_timeout"
        engine.state(inflight=0, open=0, aborted=aborted + 1)
        gate.until(active=0)


def test_held_status_goes_out_with_comments_while_a_long_prefill_runs() -> None:
    with (
        simulated_engine(*ROOMY, "--max-num-batched-tokens", "64") as engine,
        gateway(engine, "--status-hold-s", "0.1") as gate,
        gate.client() as client,
    ):
        client.post(CHAT, chat(3, text="word" * 3000))
        seen = client.until_events(2)
        assert seen.status == 200
        assert seen.body.startswith(b": waiting\n\n: waiting\n\n")
        reply = client.reply()
        assert len(reply.text.split()) == 3
        assert reply.ended


@pytest.fixture(scope="module")
def holding(_engine: Engine) -> Iterator[Gateway]:
    """A gateway that sends a 200 before the engine does, where that takes long."""
    with gateway(_engine, "--status-hold-s", "0.1") as gate:
        yield gate


@pytest.mark.parametrize("path", PATHS)
def test_engine_error_after_a_held_status_is_an_error_event(holding: Gateway, engine: Engine, path: str) -> None:
    """An error on /v1/messages came without its `event: error` line, and a refusal's own words were lost."""
    engine.faults({"kind": "slow_head", "seconds": 0.5}, {"kind": "error_first", "message": "no room"})
    reply = holding.ask(body(path), path)
    assert reply.body.startswith(b": waiting\n\n")
    assert last_error(reply, path)["message"] == "no room"


def test_death_of_the_engine_after_a_held_status_is_an_error_event() -> None:
    flags = (*ROOMY, "--max-num-batched-tokens", "8")
    with (
        simulated_engine(*flags) as engine,
        gateway(engine, "--status-hold-s", "0.1", "--wake-timeout-s", "1") as gate,
        gate.client() as client,
    ):
        client.post(CHAT, chat(3, text="word" * 40_000))
        client.until_events(1)
        engine.process.kill()
        assert last_error(client.reply(), CHAT)["code"] in ("engine_failed", "engine_unavailable")


def test_giant_event_passes_and_an_endless_one_is_cut(gate: Gateway, engine: Engine) -> None:
    engine.faults({"kind": "giant", "after_events": 2, "bytes": 2_000_000})
    reply = gate.ask(chat(5))
    assert len(reply.text) > 2_000_000
    assert reply.events[-1] == DONE
    engine.faults({"kind": "giant", "after_events": 2, "bytes": 9_000_000})
    assert "without an end" in last_error(gate.ask(chat(5)), CHAT)["message"]
