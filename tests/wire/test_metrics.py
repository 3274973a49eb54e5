"""Every counter, gauge and histogram against exactly what was sent, for every way in which a request can end."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from headgate import __version__, is_compiled
from headgate.api.generation import ENDPOINTS
from headgate.pool.lifecycle import State
from tests.simulated import simulated_engine
from tests.tools import tool
from tests.wire.books import (
    OPEN_METRICS,
    OPERATION,
    Books,
    as_told,
    families,
    gauges,
    open_families,
    request,
    series,
)
from tests.wire.client import CHAT, DONE, MODEL, chat
from tests.wire.client import request as raw
from tests.wire.gateway import Gateway, gateway
from tests.wire.scripted import JSON, SSE, TRIES, Scripted, chunked, scripted_engine, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
WHOLE = JSON + sized(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":11}}')
EXACT = {"prompt": 7, "completion": 3}
GRANTED = {"granted": 1}
BEGUN = SSE + chunked(HELLO)[: -len(b"0\r\n\r\n")]
"""A stream's head and its first event, and nothing after it yet."""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Gateway, Scripted]]:
    flags = ("--max-active", "2", "--queue-max", "1", "--wake-timeout-s", "10", "--slo-ttft-s", "off")
    with scripted_engine() as script, gateway(script.url, *flags, "--slo-itl-ms", "off") as gate:
        yield gate, script


@pytest.fixture
def gate(pair: tuple[Gateway, Scripted]) -> Iterator[Gateway]:
    yield pair[0]
    pair[0].until(active=0, queued=0)


@pytest.fixture
def engine(pair: tuple[Gateway, Scripted]) -> Scripted:
    return pair[1]


@pytest.fixture
def books(gate: Gateway) -> Books:
    return Books(gate)


# Answers.


def test_whole_answer(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(WHOLE)
    assert gate.ask(chat(stream=False)).status == 200
    books.until(
        request(
            *(200, "ok"),
            tries={"ok": 1},
            waits=GRANTED,
            batches=(1,),
            answered=True,
            tokens={"prompt": 5, "completion": 11},
            slo="met",
        )
    )


STREAMED: dict[str, Any] = {"tries": {"ok": 1}, "waits": GRANTED, "batches": (1,), "answered": True, "slo": "met"}


def test_streamed_answer(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(SSE + chunked(HELLO, HELLO, HELLO, USAGE, DONE))
    assert gate.ask().status == 200
    books.until(request(200, "ok", events=3, tokens=EXACT, **STREAMED))


@pytest.mark.parametrize("wanted", [True, False])
def test_tokens_are_those_of_the_usage_whoever_asked_for_it(
    gate: Gateway, engine: Scripted, books: Books, wanted: bool
) -> None:
    engine.say(SSE + chunked(HELLO, USAGE, DONE))
    gate.ask(chat(stream_options={"include_usage": wanted}))
    books.until(request(200, "ok", events=1, tokens=EXACT, **STREAMED))


def test_tokens_of_a_stream_without_usage_are_estimated_from_its_events(
    gate: Gateway, engine: Scripted, books: Books
) -> None:
    engine.say(SSE + chunked(*[HELLO] * 5, DONE))
    gate.ask(x_request_id="estimated")
    books.until(request(200, "ok", events=5, tokens={"completion_estimated": 5}, **STREAMED))
    assert gate.logged("estimated")["estimated"] is True


def test_usage_below_nothing_takes_nothing_away(gate: Gateway, engine: Scripted, books: Books) -> None:
    """A counter went backwards by what the engine said."""
    engine.say(SSE + chunked(HELLO, USAGE.replace(b":7", b":-7"), DONE))
    gate.ask()
    books.until(request(200, "ok", events=1, tokens={"completion_estimated": 1}, **STREAMED))


def test_several_sequences_are_one_call(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(WHOLE)
    body = {"model": MODEL, "prompt": ["a", "b", "c"], "n": 2}
    assert gate.ask(body, "/v1/completions").status == 200
    books.until(
        request(
            *(200, "ok"),
            route="/v1/completions",
            **{**STREAMED, "batches": (6,)},
            tokens={"prompt": 5, "completion": 11},
        )
    )


def test_very_many_sequences_do_not_spoil_the_mean(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(JSON.replace(b"200 OK", b"400 Bad Request") + sized(b'{"error":{"message":"too many"}}'))
    assert gate.ask(chat(n=1 << 14)).status == 400
    books.until(request(400, "invalid_request", tries={"invalid_request": 1}, waits=GRANTED, batches=(1024,)))


def test_answer_with_no_tokens_in_it(gate: Gateway, engine: Scripted, books: Books) -> None:
    """It was counted as an estimate of none."""
    engine.say(JSON + sized(b'{"text":"what was said"}'))
    form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n' + MODEL.encode() + b"\r\n--x--\r\n"
    reply = gate.ask(form, "/v1/audio/transcriptions", content_type="multipart/form-data; boundary=x", x_request_id="w")
    assert reply.status == 200
    books.until(request(200, "ok", route="/v1/audio/transcriptions", **STREAMED))
    assert gate.logged("w")["estimated"] is False


def test_call_without_a_slot_is_no_generation(gate: Gateway, engine: Scripted, books: Books) -> None:
    """Its few milliseconds were among the latencies of answers, and what load was shed by."""
    engine.say(JSON + sized(b'{"count":3}'))
    assert gate.ask({"model": MODEL, "prompt": "x"}, "/tokenize").status == 200
    books.until(request(200, "ok", route="/tokenize", tries={"ok": 1}))


# Engines that fail.


def test_failed_try_and_the_good_one_after_it_are_two_tries_of_one_request(
    gate: Gateway, engine: Scripted, books: Books
) -> None:
    engine.say(SSE + chunked())
    engine.say(SSE + chunked(HELLO, USAGE, DONE))
    assert gate.ask().status == 200
    tries = {"engine_failed": 1, "ok": 1}
    books.until(
        request(
            200,
            "ok",
            events=1,
            tokens=EXACT,
            **{**STREAMED, "tries": tries, "waits": {"granted": 2}, "batches": (1, 1)},
        )
    )


def test_request_that_fails_at_every_try_is_one_request_and_one_outcome_a_try(
    gate: Gateway, engine: Scripted, books: Books
) -> None:
    """The last try was counted twice: as failed, and again with the request's end."""
    for _ in range(TRIES):
        engine.say(SSE + chunked())
    assert gate.ask().status == 502
    books.until(
        request(
            *(502, "engine_failed"),
            tries={"engine_failed": TRIES},
            waits={"granted": TRIES},
            batches=(1,) * TRIES,
            refused=True,
            slo="refused",
        )
    )


def test_500_of_a_living_engine_is_one_try(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(JSON.replace(b"200 OK", b"500 No") + sized(b'{"error":{"message":"no"}}'))
    assert gate.ask().status == 500
    books.until(request(500, "engine_failed", tries={"engine_failed": 1}, waits=GRANTED, batches=(1,), slo="failed"))


def test_event_that_an_error_came_right_behind_is_no_first_token(gate: Gateway, engine: Scripted, books: Books) -> None:
    """Nothing of it went out, and it was among the times to first tokens; with its second try it was there twice."""
    engine.say(SSE + chunked(HELLO + b'data: {"error":{"message":"no","code":500}}\n\n'))
    assert gate.ask().status == 500
    books.until(request(500, "engine_failed", tries={"engine_failed": 1}, waits=GRANTED, batches=(1,), slo="failed"))


def test_stream_that_is_cut_is_a_failure_after_its_first_event(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(SSE + chunked(HELLO, HELLO))
    reply = gate.ask()
    assert (reply.status, reply.data[-1]["error"]["code"]) == (200, "engine_failed")
    estimated = {"completion_estimated": 2}
    failed = {**STREAMED, "tries": {"engine_failed": 1}, "slo": "failed"}
    books.until(request(200, "engine_failed", events=2, tokens=estimated, **failed))


@pytest.mark.parametrize(
    ("status", "reason", "slo"),
    [(400, "invalid_request", None), (404, "not_found", None), (429, "slots_busy", "failed")],
)
def test_refusal_of_the_engines_own_is_none_of_ours(
    gate: Gateway, engine: Scripted, books: Books, status: int, reason: str, slo: str | None
) -> None:
    engine.say(JSON.replace(b"200 OK", b"%d No" % status) + sized(b'{"error":{"message":"no"}}'))
    assert gate.ask().status == status
    books.until(request(status, reason, tries={reason: 1}, waits=GRANTED, batches=(1,), slo=slo))


# Clients that leave.


def test_client_that_leaves_while_it_sends(gate: Gateway, books: Books) -> None:
    with gate.client() as client:
        client.send(raw(CHAT, chat(text="x" * 1000))[:-500])
    books.until(request(499, "client_left", model="other", left="arriving"))


def test_client_that_leaves_before_the_first_event(gate: Gateway, engine: Scripted, books: Books) -> None:
    with gate.client() as client:
        client.post(CHAT, chat())
        gate.until(active=1)
    books.until(
        request(499, "client_left", left="waiting_first", tries={"client_left": 1}, waits=GRANTED, batches=(1,))
    )
    engine.say(b"")  # for the handler that still waits for its answer


def test_client_that_leaves_in_mid_stream(gate: Gateway, engine: Scripted, books: Books) -> None:
    engine.say(BEGUN)
    with gate.client() as client:
        client.post(CHAT, chat()).until_events(1)
    books.until(
        request(
            *(499, "client_left"),
            left="streaming",
            tries={"client_left": 1},
            waits=GRANTED,
            batches=(1,),
            events=1,
            tokens={"completion_estimated": 1},
        )
    )


def test_full_house(gate: Gateway, engine: Scripted, books: Books) -> None:
    """Two run, one waits, one is refused; then the one that waits leaves, and the two do."""
    running = {"tries": {"client_left": 1}, "waits": GRANTED, "batches": (1,), "events": 1}
    expected = [
        request(429, "queue_full", refused=True, waits={"queue_full": 1}, slo="refused"),
        request(499, "client_left", left="queued", waits={"left": 1}),
        *[request(499, "client_left", left="streaming", tokens={"completion_estimated": 1}, **running)] * 2,  # type: ignore[arg-type]
    ]
    for _ in range(2):
        engine.say(BEGUN)
    with gate.hold(2), gate.client() as waiting:
        body = raw(CHAT, chat())
        waiting.send(body)
        gate.until(active=2, queued=1)
        seen = gauges(gate)
        assert gate.ask().error["code"] == "queue_full"
    books.until(*expected)
    assert seen["api_active_requests"] == 2
    assert seen["api_queue_depth"] == 1
    assert seen["api_queue_bytes"] == len(body.partition(b"\r\n\r\n")[2])


# Requests that are refused.


def test_request_that_cannot_be_served_as_it_is(gate: Gateway, books: Books) -> None:
    gate.ask({})
    gate.ask(content_type="text/plain")
    gate.ask(chat() | {"model": "somebody-elses"})
    wrong = {"model": "other", "refused": True}
    books.until(
        request(400, "invalid_request", **wrong),  # type: ignore[arg-type]
        request(415, "unsupported_media_type", **wrong),  # type: ignore[arg-type]
        request(404, "not_found", **wrong),  # type: ignore[arg-type]
    )


def test_refusals_of_a_gateway_that_has_keys_and_no_line() -> None:
    flags = ("--queue-mode", "reject", "--api-key", "sesame", "--max-body-bytes", "1kB", "--max-active", "1")
    with scripted_engine() as engine, gateway(engine.url, *flags, "--request-timeout-s", "0.5") as gate:
        gate.authorize("sesame")
        books = Books(gate)
        assert gate.ask().status == 401
        assert gate.ask(chat(text="x" * 1000), authorization="Bearer sesame").status == 413
        assert gate.http.post("/admin/engines/e0/restart").status_code == 403
        with gate.client() as slow:
            slow.send(raw(CHAT, chat(), {"authorization": "Bearer sesame"})[:-5])
            assert slow.reply().status == 408
        with gate.client() as first:
            first.post(CHAT, chat(), authorization="Bearer sesame")
            gate.until(active=1)
            assert gate.ask(authorization="Bearer sesame").status == 429
            assert first.reply().status == 504
        engine.say(b"")
        ours = {"model": "other", "key": "default", "refused": True}
        books.until(
            request(401, "unauthorized", model="other", refused=True),
            request(413, "too_large", **ours),  # type: ignore[arg-type]
            request(403, "forbidden", route="/admin/engines/{name}/restart", model="other"),
            request(408, "request_incomplete", **ours),  # type: ignore[arg-type]
            request(429, "slots_busy", key="default", refused=True, waits={"slots_busy": 1}, slo="refused"),
            request(
                *(504, "request_timeout"),
                key="default",
                refused=True,
                tries={"request_timeout": 1},
                waits=GRANTED,
                batches=(1,),
                slo="refused",
            ),
        )


def test_request_timeout_in_mid_stream_is_a_failure() -> None:
    with scripted_engine() as engine, gateway(engine.url, "--request-timeout-s", "0.3") as gate:
        books = Books(gate)
        engine.say(BEGUN)
        assert gate.ask().data[-1]["error"]["code"] == "request_timeout"
        failed = {**STREAMED, "tries": {"request_timeout": 1}, "slo": "failed"}
        books.until(request(200, "request_timeout", events=1, tokens={"completion_estimated": 1}, **failed))


def test_wait_that_is_too_long() -> None:
    with (
        scripted_engine() as engine,
        gateway(engine.url, "--queue-timeout-s", "0.2", "--max-active", "1") as gate,
    ):
        books = Books(gate)
        engine.say(BEGUN)
        with gate.hold(1):
            assert gate.ask().error["code"] == "queue_timeout"
            books.until(
                request(503, "queue_timeout", refused=True, waits={"queue_timeout": 1}, slo="refused"),
                {  # and of the stream that runs, what is known so far
                    series("api_queue_wait_seconds_count", {"outcome": "granted"}): 1,
                    "api_batch_size_count": 1,
                    "api_batch_size_sum": 1,
                    series("api_time_to_first_token_seconds_count", {"model": MODEL}): 1,
                },
            )


def test_engine_that_is_not_there() -> None:
    with (
        scripted_engine() as engine,
        gateway(
            engine.url.replace("http://127.0.0.1:", "http://127.0.0.2:"), "--wake-timeout-s", "0.2", ready=False
        ) as gate,
    ):
        books = Books(gate)
        assert gate.ask().error["code"] == "engine_unavailable"
        books.until(
            request(
                *(503, "engine_unavailable"),
                model="other",
                refused=True,
                waits={"engine_unavailable": 1},
                slo="refused",
            )
        )
        assert gauges(gate)[series("api_engine_up", {"engine": "e0"})] == 0


def test_request_that_waited_for_the_first_word_of_its_engine_is_counted_under_its_model() -> None:
    """It was `other`, because nobody knew the model when it came."""
    with scripted_engine(lists_models=False) as engine, gateway(engine.url, ready=False) as gate:
        books = Books(gate)
        with gate.client() as client:
            client.post(CHAT, chat())
            gate.until(queued=1)
            engine.say(SSE + chunked(HELLO, HELLO, USAGE, DONE))
            engine.lists_models = True
            assert client.reply().status == 200
        books.until(request(200, "ok", events=2, tokens=EXACT, **STREAMED))


def test_refusals_tell_the_priority_of_who_was_refused() -> None:
    with scripted_engine() as engine, gateway(engine.url, "--queue-mode", "reject", "--api-key", "sesame") as gate:
        books = Books(gate)
        for wished in ("high", "normal", "low", "-7", "5"):
            told = {"authorization": "Bearer sesame", "x_headgate_priority": wished}
            assert gate.ask(chat() | {"model": "no"}, **told).status == 404
        refused = {"reason": "not_found", "model": "other", "key": "default"}
        by_priority = {"high": 2, "normal": 1, "low": 2}
        books.until(
            {
                series("api_refusals_total", {**refused, "priority": priority}): count
                for priority, count in by_priority.items()
            },
            {series("api_requests_total", {**refused, "route": CHAT, "status": "404"}): 5},
        )


def test_drain_refuses_newcomers_and_counts_them() -> None:
    with scripted_engine() as engine, gateway(engine.url, "--drain-timeout-s", "10") as gate:
        books = Books(gate)
        engine.say(SSE + chunked(HELLO, USAGE, DONE)[:-5])  # all but the end of its body
        with gate.client() as last:
            last.post(CHAT, chat()).until_events(1)
            gate.terminate()
            gate_says = gate.get("/ready")
            while gate_says.status_code == 200:
                gate_says = gate.get("/ready")
            assert gate_says.json()["reason"] == "draining"
            assert gate.ask().error["code"] == "draining"
            books.until(
                request(503, "draining", refused=True, waits={"draining": 1}, slo="refused"),
                {
                    series("api_queue_wait_seconds_count", {"outcome": "granted"}): 1,
                    "api_batch_size_count": 1,
                    "api_batch_size_sum": 1,
                    series("api_time_to_first_token_seconds_count", {"model": MODEL}): 1,
                },
            )


# Objectives.


@pytest.mark.parametrize(
    ("flags", "streamed", "result"),
    [
        (("--slo-ttft-s", "0.000001"), True, "ttft"),
        (("--slo-ttft-s", "0.000001"), False, "met"),
        (("--slo-ttft-s", "20", "--slo-itl-ms", "0.0001"), True, "itl"),
        (("--slo-ttft-s", "off", "--slo-itl-ms", "off", "--slo-latency-s", "0.000001"), True, "latency"),
        (("--slo-ttft-s", "20", "--slo-itl-ms", "20000", "--slo-latency-s", "20"), True, "met"),
    ],
)
def test_objective_that_was_missed_is_named(flags: tuple[str, ...], streamed: bool, result: str) -> None:
    with simulated_engine() as engine, gateway(engine, *flags) as gate:
        assert gate.ask(chat(4, stream=streamed)).status == 200
        gate.until_counted(1, "api_slo_requests_total", model=MODEL, result=result)
        gate.until_counted(1, "api_slo_requests_total")
        told = gate.status()["slo"]
        assert told["results"] == {result: 1}
        limits = {
            "ttft": told["ttft_s"],
            "itl": told["itl_ms"] and told["itl_ms"] / 1e3,
            "latency": told["latency_s"],
        }
        shown = {name: value for name, value in gauges(gate).items() if name.startswith("api_slo_seconds")}
        assert shown == pytest.approx(
            {series("api_slo_seconds", {"objective": name}): value for name, value in limits.items() if value}
        )


# The page itself.


def test_gauges_of_a_house_at_rest(gate: Gateway) -> None:
    states = {series("api_engine_state", {"engine": "e0", "state": state}): 0.0 for state in State}
    states[series("api_engine_state", {"engine": "e0", "state": "ready"})] = 1.0
    seen = gauges(gate)
    assert seen.pop(series("api_engine_wake_seconds", {"engine": "e0"}), 0.0) >= 0
    assert seen == {
        **states,
        "api_active_requests": 0,
        "api_coalescing": 0,
        "api_max_active": 2,
        "api_queue_depth": 0,
        "api_queue_bytes": 0,
        "api_queue_oldest_wait_seconds": 0,
        "api_queue_max": 1,
        "api_queue_timeout_seconds": 30,
        "api_engines_desired": 1,
        series("api_engine_up", {"engine": "e0"}): 1,
        series("api_engine_slots", {"engine": "e0"}): 2,
        series("api_engine_active_requests", {"engine": "e0"}): 0,
        series("api_build_info", {"version": __version__, "compiled": str(is_compiled()).lower()}): 1,
    }
    assert gate.metric("api_event_loop_lag_seconds") >= 0
    assert 0 <= gate.status()["process"]["loop_lag_s"] < 60


def test_operation_routes_are_counted_by_template(gate: Gateway) -> None:
    before = {route: gate.metric("api_requests_total", route=route, status="200") for route in OPERATION}
    for route in OPERATION - {"/metrics"}:
        gate.get(route)
    gate.get("/v1/models/no/such/thing")
    for route in OPERATION - {"/metrics"}:
        assert gate.metric("api_requests_total", route=route, status="200") == before[route] + 1
    assert gate.metric("api_requests_total", route="/v1/models/{model:path}", status="404", reason="not_found") >= 1


SCRAPING = ("process_", "gpu_", 'route="/metrics"', "api_event_loop_lag_seconds")
"""What moves by itself, or by being scraped."""


def test_text_openmetrics_and_json_say_the_same(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + chunked(HELLO, HELLO, USAGE, DONE))
    gate.ask()
    gate.until(active=0)
    text = families(gate.get("/metrics").text)
    opened = open_families(gate.get("/metrics", accept=OPEN_METRICS).text)
    told = as_told(gate.get("/metrics?format=json").content)

    def still(samples: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in samples.items() if not any(word in name for word in SCRAPING)}

    def of(page: Any) -> dict[str, float]:
        return still({series(s.name, s.labels): s.value for family in page for s in family.samples})

    assert of(text) == of(opened) == still(told)
    assert {family.name for family in text} == {family.name for family in opened}
    assert all(family.documentation for family in opened)


def test_exemplars_name_a_call_that_the_log_has_and_are_in_its_bucket(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + chunked(HELLO, USAGE, DONE))
    gate.ask(x_request_id="exemplary", x_headgate_user="evil")
    line = gate.logged("exemplary")
    found = {}
    for family in open_families(gate.get("/metrics", accept=OPEN_METRICS).text):
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sample.name.endswith("_bucket")
                assert sample.exemplar.value <= float(sample.labels["le"])
                assert list(sample.exemplar.labels) == ["request"]
                found[family.name, sample.exemplar.labels["request"]] = sample.exemplar
    latency = found["api_request_latency_seconds", line["engine_request_id"]]
    first = found["api_time_to_first_token_seconds", line["engine_request_id"]]
    assert latency.value * 1e3 == pytest.approx(line["duration_ms"], abs=0.06)
    assert first.value * 1e3 == pytest.approx(line["ttft_ms"], abs=0.06)
    assert {name for name, _ in found} == {"api_request_latency_seconds", "api_time_to_first_token_seconds"}
    assert "#" not in "".join(line for line in gate.get("/metrics").text.splitlines() if line[:1] != "#")


HOSTILE = ["", " ", "a\nb", 'quo"te', "back\\slash", "{le=", "\x00", "ü" * 100, "x" * 100_000, "__name__", "\u2028"]


def test_nothing_that_a_caller_makes_up_becomes_a_series(gate: Gateway, books: Books) -> None:
    """After thousands of names there are as many series as after one of each kind."""

    def names() -> set[str]:
        return {series(s.name, s.labels) for f in families(gate.get("/metrics").text) for s in f.samples}

    def storm(number: int) -> None:
        for word in HOSTILE:
            gate.ask(chat() | {"model": f"{word}{number}"})
        with gate.client() as client:
            for path in (f"/v1/models/m{number}", f"/engines/x{number}/metrics", f"/nothing/{number}", f"/{'y' * 500}"):
                for method in ("GET", "POST", "PUT", "PATCH", "OPTIONS"):
                    client.send(raw(path, None, {"x-request-id": f"id{number}"}, method=method))
                    client.reply()
            client.send(raw(f"{CHAT}?model=q{number}", chat() | {"model": "no"}, {"x-api-key": f"key{number}"}))
            client.reply()
            client.send(raw(CHAT, chat() | {"model": "no"}, {"x-headgate-priority": f"p{number}", "user": "u"}))
            client.reply()

    storm(0)
    known = names()
    for number in range(1, 4):
        storm(number)
    assert names() == known
    labels = {
        name: {s.labels[name] for f in families(gate.get("/metrics").text) for s in f.samples if name in s.labels}
        for name in ("model", "key", "route", "reason", "status", "priority")
    }
    assert labels["model"] <= {MODEL, "other"}
    assert labels["key"] == {"anonymous"}
    assert labels["priority"] == {"normal"}
    templates = {*ENDPOINTS, *OPERATION, "other", "/v1/models/{model:path}", "/engines/{name}/metrics"}
    assert labels["route"] <= templates
    assert all(status.isdigit() for status in labels["status"])


def test_engine_that_has_no_metrics_is_no_page_of_none(gate: Gateway) -> None:
    """Its 404 page went out as a page of metrics, with status 200."""
    answer = gate.get("/engines/e0/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert "404" in answer.json()["error"]["message"]


def test_every_figure_in_json_is_a_number(gate: Gateway) -> None:
    for family in json.loads(gate.get("/metrics?format=json").content).values():
        assert family["help"]
        assert family["type"] in ("counter", "gauge", "histogram")
        assert all(isinstance(sample["value"], int | float) for sample in family["samples"])


def test_prometheus_own_lint_finds_nothing(gate: Gateway, engine: Scripted) -> None:
    engine.say(SSE + chunked(HELLO, HELLO, USAGE, DONE))
    gate.ask()
    gate.ask({})
    linted = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=gate.get("/metrics").text,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (linted.returncode, linted.stderr + linted.stdout) == (0, "")
