"""Spans as a collector gets them, the trace as the engine gets it; and nothing of it where tracing is off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from headgate import __version__
from tests.wire.books import OPEN_METRICS, open_families
from tests.wire.client import CHAT, DONE, MODEL, chat
from tests.wire.collector import Collector, Span, collector
from tests.wire.gateway import Gateway, gateway, wait_until
from tests.wire.scripted import JSON, SSE, TRIES, Scripted, chunked, scripted_engine, sized

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
STREAM = SSE + chunked(HELLO, HELLO, USAGE, DONE)
SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2
CALL = f"chat {MODEL}"
ROOT = f"POST {CHAT}"
SPAN = "b7ad6b7169203331"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
"""Spans are sent after so many milliseconds, not after five seconds."""


def parent(number: int, flags: str = "01") -> tuple[str, str]:
    """A trace's id and the traceparent of a caller in it."""
    trace_id = f"{0xABC0000 + number:032x}"
    return trace_id, f"00-{trace_id}-{SPAN}-{flags}"


def traced(engine: str, spans: Collector, *flags: str, **env: str) -> Any:
    return gateway(engine, *flags, env={"OTEL_EXPORTER_OTLP_ENDPOINT": spans.url, **SOON, **env})


@pytest.fixture(scope="module")
def all_three() -> Iterator[tuple[Gateway, Scripted, Collector]]:
    with scripted_engine() as script, collector() as spans, traced(script.url, spans, "--max-active", "1") as gate:
        yield gate, script, spans


@pytest.fixture
def gate(all_three: tuple[Gateway, Scripted, Collector]) -> Iterator[Gateway]:
    yield all_three[0]
    all_three[0].until(active=0, queued=0)


@pytest.fixture
def engine(all_three: tuple[Gateway, Scripted, Collector]) -> Scripted:
    return all_three[1]


@pytest.fixture
def spans(all_three: tuple[Gateway, Scripted, Collector]) -> Collector:
    return all_three[2]


def is_within(child: Span, outer: Span) -> bool:
    return outer.start_ns <= child.start_ns <= child.end_ns <= outer.end_ns and child.parent_id == outer.span_id


def test_stream_is_a_child_of_its_caller_and_its_engine_call_one_of_it(
    gate: Gateway, engine: Scripted, spans: Collector
) -> None:
    trace_id, told = parent(1)
    engine.say(STREAM)
    before_ns = time.time_ns()
    assert gate.ask(traceparent=told, tracestate="rojo=1", x_request_id="first").status == 200
    after_ns = time.time_ns()
    found = spans.trace(trace_id, 4)
    root, call = found[ROOT], found[CALL]
    assert set(found) == {ROOT, CALL, "headgate.first_token", "headgate.stream"}
    assert (root.parent_id, root.kind, call.kind, root.state, call.state) == (SPAN, SERVER, CLIENT, "rojo=1", "rojo=1")
    assert is_within(call, root)
    assert is_within(found["headgate.first_token"], call)
    assert is_within(found["headgate.stream"], call)
    assert found["headgate.first_token"].end_ns == found["headgate.stream"].start_ns
    slack_ns = 50_000_000  # two clocks of one machine
    assert before_ns - slack_ns <= root.start_ns <= root.end_ns <= after_ns + slack_ns
    assert engine.heads[-1]["traceparent"] == f"00-{trace_id}-{call.span_id}-01"
    assert engine.heads[-1]["tracestate"] == "rojo=1"


def test_attributes_are_those_of_the_conventions(gate: Gateway, engine: Scripted, spans: Collector) -> None:
    trace_id, told = parent(2)
    engine.say(STREAM)
    gate.ask(chat(text="a secret prompt"), traceparent=told, x_request_id="second")
    found = spans.trace(trace_id, 4)
    line = gate.logged("second")
    assert line["trace_id"] == trace_id
    first_s = found[CALL].attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first_s < 20
    assert found[CALL].attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": MODEL,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "headgate.engine": "e0",
        "headgate.engine_request_id": line["engine_request_id"],
    }
    assert found[ROOT].attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": MODEL,
        "headgate.key": "anonymous",
        "headgate.request_id": "second",
        "headgate.estimated": False,
    }
    assert found[ROOT].resource["service.name"] == "headgate"
    assert found[ROOT].resource["service.version"] == __version__
    assert (found[ROOT].status, found[CALL].status) == (0, 0)
    assert b"secret" not in spans.raw
    assert b"Hello" not in spans.raw


def test_request_without_a_trace_begins_one(gate: Gateway, engine: Scripted, spans: Collector) -> None:
    engine.say(JSON + sized(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":11}}'))
    gate.ask(chat(stream=False), x_request_id="third")
    trace_id = gate.logged("third")["trace_id"]
    found = spans.trace(trace_id, 2)
    assert found[ROOT].parent_id == ""
    assert found[CALL].attributes["gen_ai.usage.output_tokens"] == 11
    passed, flags = engine.heads[-1]["traceparent"].rsplit("-", 1)
    assert passed == f"00-{trace_id}-{found[CALL].span_id}"
    assert int(flags, 16) & 1, "it is sampled"
    assert "tracestate" not in engine.heads[-1]


@pytest.mark.parametrize("told", ["", "00-nonsense", "ff-" + parent(3)[1][3:], f"00-{'0' * 32}-{SPAN}-01"])
def test_trace_that_cannot_be_is_not_the_callers(gate: Gateway, engine: Scripted, told: str) -> None:
    engine.say(STREAM)
    gate.ask(traceparent=told, tracestate="rojo=1", x_request_id=f"odd-{told or 'none'}")
    trace_id = gate.logged(f"odd-{told or 'none'}")["trace_id"]
    assert trace_id not in told
    assert engine.heads[-1]["traceparent"].startswith(f"00-{trace_id}-")
    assert "tracestate" not in engine.heads[-1]


def test_caller_that_is_not_sampled_is_not_recorded_and_its_trace_goes_on(
    gate: Gateway, engine: Scripted, spans: Collector
) -> None:
    trace_id, told = parent(4, "00")
    engine.say(STREAM)
    gate.ask(traceparent=told, x_request_id="unsampled")
    passed = engine.heads[-1]["traceparent"]
    assert passed.startswith(f"00-{trace_id}-")
    assert passed.endswith("-00")
    engine.say(STREAM)
    sampled, told = parent(5)
    gate.ask(traceparent=told)
    spans.trace(sampled, 4)
    assert not [span for span in spans.spans if span.trace_id == trace_id]


def test_wait_in_the_line_is_a_span(gate: Gateway, engine: Scripted, spans: Collector) -> None:
    trace_id, told = parent(6)
    engine.say(STREAM[:-5])
    with gate.client() as first, gate.client() as second:
        first.post(CHAT, chat()).until_events(1)
        second.post(CHAT, chat(), traceparent=told)
        gate.until(active=1, queued=1)
        engine.say(STREAM)
        first.close()
        assert second.reply().status == 200
    found = spans.trace(trace_id, 5)
    assert is_within(found["headgate.wait"], found[ROOT])
    assert found["headgate.wait"].attributes == {"headgate.outcome": "granted"}
    assert found["headgate.wait"].end_ns <= found[CALL].start_ns
    assert found["headgate.wait"].kind == INTERNAL


def test_client_that_leaves_the_line_is_no_error(gate: Gateway, engine: Scripted, spans: Collector) -> None:
    trace_id, told = parent(7)
    engine.say(STREAM[:-5])
    with gate.client() as first, gate.client() as second:
        first.post(CHAT, chat()).until_events(1)
        second.post(CHAT, chat(), traceparent=told)
        gate.until(active=1, queued=1)
        second.close()
        found = spans.trace(trace_id, 2)
    assert found["headgate.wait"].attributes == {"headgate.outcome": "left"}
    assert found[ROOT].attributes["error.type"] == "client_left"
    assert found[ROOT].attributes["http.response.status_code"] == 499
    assert found[ROOT].status == 0


def test_each_try_is_a_span_and_the_failed_one_says_why(gate: Gateway, engine: Scripted, spans: Collector) -> None:
    trace_id, told = parent(8)
    engine.say(SSE + chunked())
    engine.say(STREAM)
    assert gate.ask(traceparent=told).status == 200
    wait_until(lambda: len([s for s in spans.spans if s.trace_id == trace_id]) == 6, "all spans")
    calls = [span for span in spans.spans if span.trace_id == trace_id and span.name == CALL]
    failed, good = sorted(calls, key=lambda span: span.start_ns)
    assert (failed.status, failed.attributes["error.type"]) == (ERROR, "engine_failed")
    assert good.status == 0
    assert [head["traceparent"][36:52] for head in engine.heads[-2:]] == [failed.span_id, good.span_id]


def test_refusal_is_an_error_of_the_request(gate: Gateway, engine: Scripted, spans: Collector) -> None:
    trace_id, told = parent(9)
    for _ in range(TRIES):
        engine.say(SSE + chunked())
    assert gate.ask(traceparent=told).status == 502
    wait_until(lambda: len([s for s in spans.spans if s.trace_id == trace_id]) == 4, "all spans")
    (root,) = [span for span in spans.spans if span.trace_id == trace_id and span.name == ROOT]
    assert (root.status, root.attributes["error.type"]) == (ERROR, "engine_failed")
    assert root.attributes["http.response.status_code"] == 502


def test_callers_own_fault_is_no_error_of_the_servers(gate: Gateway, spans: Collector) -> None:
    trace_id, told = parent(10)
    assert gate.ask(chat() | {"model": "\ud800 hostile"}, traceparent=told).status in (400, 404)
    assert gate.ask(chat() | {"model": "no"}, traceparent=told).status == 404
    found = spans.trace(trace_id, 1)
    assert (found[ROOT].status, found[ROOT].attributes["error.type"]) == (0, "not_found")
    assert found[ROOT].attributes["gen_ai.request.model"] == "other"


def test_stream_that_breaks_is_an_error_though_its_status_is_200(
    gate: Gateway, engine: Scripted, spans: Collector
) -> None:
    trace_id, told = parent(11)
    engine.say(SSE + chunked(HELLO))
    gate.ask(traceparent=told)
    found = spans.trace(trace_id, 4)
    assert (found[ROOT].status, found[CALL].status) == (ERROR, ERROR)
    assert found[ROOT].attributes["http.response.status_code"] == 200
    assert found[ROOT].attributes["headgate.estimated"] is True
    assert "gen_ai.usage.output_tokens" not in found[CALL].attributes


def test_exemplars_are_traces(gate: Gateway, engine: Scripted) -> None:
    trace_id, told = parent(12)
    engine.say(STREAM)
    gate.ask(traceparent=told, x_request_id="exemplary")
    gate.logged("exemplary")
    page = open_families(gate.get("/metrics", accept=OPEN_METRICS).text)
    told_of = {s.exemplar.labels.get("trace_id") for family in page for s in family.samples if s.exemplar is not None}
    assert trace_id in told_of


def test_request_that_waits_for_an_engine_has_a_span_for_it() -> None:
    flags = ("--engine-args", "--load-s 0.5")
    env = {**SOON}
    with collector() as spans:
        env["HEADGATE_OTEL_EXPORTER_OTLP_ENDPOINT"] = spans.url
        with gateway(None, *flags, env=env, ready=False) as gate:
            trace_id, told = parent(13)
            assert gate.ask(traceparent=told).status == 200
            found = spans.trace(trace_id, 6)
    wake, wait = found["headgate.wake"], found["headgate.wait"]
    assert is_within(wake, wait)
    assert (wake.end_ns - wake.start_ns) / 1e9 > 0.1
    assert wait.start_ns == wake.start_ns


def test_last_spans_are_sent_at_the_end(tmp_path: Path) -> None:
    with scripted_engine() as engine, collector() as spans:
        with traced(engine.url, spans, OTEL_BSP_SCHEDULE_DELAY="600000") as gate:
            trace_id, told = parent(14)
            engine.say(STREAM)
            gate.ask(traceparent=told)
            gate.until(active=0)
            assert not spans.spans
            gate.terminate()
            assert gate.exit_status() == 0
        assert len(spans.trace(trace_id, 4)) == 4


def test_collector_that_does_not_answer_or_is_not_there_holds_nothing_up() -> None:
    with ExitStack() as stack:
        engine = stack.enter_context(scripted_engine())
        spans = stack.enter_context(collector(silent=True))
        gates = [
            stack.enter_context(gateway(engine.url, env={"OTEL_EXPORTER_OTLP_ENDPOINT": url, **SOON}))
            for url in (spans.url, "http://127.0.0.2:9")
        ]
        for gate in gates:
            for _ in range(50):
                engine.say(STREAM)
                assert gate.ask().status == 200
            assert gate.status()["process"]["loop_lag_s"] < 5
            gate.until(active=0)
        for gate in gates:  # both end at the same time
            gate.terminate()
        began = time.monotonic()
        for gate in gates:
            assert gate.exit_status() == 0
            assert time.monotonic() - began < 10, "the library itself would wait for 30 s"
            told = [line for line in gate.log().splitlines() if "opentelemetry" in line]
            assert len(told) <= 4, told


# Off.


@pytest.fixture
def forbidden(tmp_path: Path) -> dict[str, str]:
    """An environment in which OpenTelemetry's SDK can't be imported, as where the extra isn't installed.

    Its API is there all the same: FastAPI brings it along, and imports it.
    """
    for part in ("sdk", "exporter"):
        package = tmp_path / "opentelemetry" / part
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('no module of this name here')\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))}


def test_off_it_imports_nothing_and_passes_the_callers_trace_on_as_it_is(forbidden: dict[str, str]) -> None:
    _, told = parent(15, "03")
    with scripted_engine() as engine, gateway(engine.url, env=forbidden) as gate:
        engine.say(STREAM)
        assert gate.ask(traceparent=told, tracestate="rojo=00f067,congo=t61", x_request_id="off").status == 200
        assert engine.heads[-1]["traceparent"] == told
        assert engine.heads[-1]["tracestate"] == "rojo=00f067,congo=t61"
        assert gate.logged("off")["trace_id"] == told[3:35]
        for wrong in ("00-nonsense", told.upper(), told + "-x"):
            engine.say(STREAM)
            assert gate.ask(traceparent=wrong, tracestate="rojo=1").status == 200
            assert "traceparent" not in engine.heads[-1]
            assert "tracestate" not in engine.heads[-1]
        engine.say(STREAM)
        gate.ask(x_request_id="none")
        assert gate.logged("none")["trace_id"] is None
        assert "warning" not in gate.log()


def test_endpoint_without_the_extra_is_one_warning_and_a_gateway(forbidden: dict[str, str]) -> None:
    env = {**forbidden, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    with scripted_engine() as engine, gateway(engine.url, env=env) as gate:
        engine.say(STREAM)
        assert gate.ask().status == 200
        (line,) = [line for line in gate.log().splitlines() if '"warning"' in line]
        assert "-m pip install opentelemetry-exporter-otlp-proto-http" in line


def test_nothing_of_the_gateway_imports_opentelemetry_by_itself() -> None:
    """FastAPI imports its API part, and does nothing with it unless it is told to."""
    look = "import sys, headgate.app; sys.exit(any(m.startswith('opentelemetry.sdk') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], check=False, timeout=60).returncode == 0
