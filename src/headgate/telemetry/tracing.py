"""Spans of a request's way, sent to an OpenTelemetry collector. Only imported where an endpoint is set.

    POST /v1/chat/completions      the request, from its arrival to its end; a child of the caller's span
      headgate.wait                in the line, where it had to wait
        headgate.wake              the part of that in which no engine was ready
      chat MODEL                   one try at an engine; its id goes to the engine, so vLLM's own spans hang below it
        headgate.first_token       from the asking to the first event
        headgate.stream            from the first event to the last

Nothing here waits: ended spans go into a bounded queue, which a thread of the library's empties; where the collector
is slow or gone they are dropped. A span costs about 20 µs on the loop and as much again in that thread, so a streamed
request 0.3 ms; what a collector doesn't want is best not sampled (``OTEL_TRACES_SAMPLER``). Prompts and answers are in
none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from headgate.telemetry.slo import LEFT, OK
from headgate.telemetry.tracecontext import TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

log = logging.getLogger(__name__)

FLUSH_S = 3.0
"""A shutdown waits for the last spans no longer than this."""
SELDOM_S = 60.0
_NOISY = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/generate": "text_completion",
    "/v1/embeddings": "embeddings",
}


class Tracer:
    """Where the requests' traces begin and are sent from. One for the process.

    Args:
        endpoint: the collector's base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` has it: ``http://collector:4318``.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        resource = Resource.create({SERVICE_VERSION: version})
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "headgate"}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headgate", version)
        for name in _NOISY:
            logging.getLogger(name).addFilter(_Seldom())

    def begin(self, route: str, model: str, caller: TraceContext | None, arrived: float, now: float) -> Trace:
        """The trace of a request.

        Args:
            model: its label: a served name, or ``other``.
            arrived, now: by the flow's clock, in seconds.
        """
        return Trace(self._tracer, route, model, caller, arrived, time.time_ns() - int(now * 1e9))

    async def close(self, within_s: float = FLUSH_S) -> None:
        """Send what is left. A collector that doesn't answer is not waited for any longer than this."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=flush, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                await done.wait()
        except TimeoutError:
            log.warning("the last spans could not be sent within %g s", within_s)


class Trace:
    """One request's spans. Every time is the flow's clock, in seconds."""

    __slots__ = (
        *("_asked_at", "_call", "_model", "_offset_ns", "_operation", "_root", "_tracer", "_unready", "_waits"),
        *("sampled", "trace_id"),
    )

    def __init__(
        self, tracer: trace.Tracer, route: str, model: str, caller: TraceContext | None, arrived: float, offset_ns: int
    ) -> None:
        self._tracer = tracer
        self._model = model
        self._offset_ns = offset_ns
        self._operation = _OPERATIONS.get(route) or route.rpartition("/")[2]
        self._root = tracer.start_span(
            f"POST {route}",
            None if caller is None else _below(_remote(caller)),
            SpanKind.SERVER,
            {
                "http.request.method": "POST",
                "http.route": route,
                "gen_ai.operation.name": self._operation,
                "gen_ai.request.model": model,
            },
            start_time=self._ns(arrived),
        )
        context = self._root.get_span_context()
        self.trace_id = f"{context.trace_id:032x}" if context.is_valid else ""
        self.sampled = self._root.is_recording()
        self._call: Span | None = None
        self._asked_at = arrived
        self._waits = self._unready = False

    def _ns(self, seconds: float) -> int:
        return int(seconds * 1e9) + self._offset_ns

    def named(self, model: str) -> None:
        """Its model is known by now."""
        self._model = model
        self._root.set_attribute("gen_ai.request.model", model)

    def waits(self, *, unready: bool) -> None:
        """It gets into the line now, or would; ``unready``: while no engine is ready."""
        self._waits, self._unready = True, unready

    def waited(self, since: float, until: float, outcome: str, waking_s: float | None, *, unready: bool) -> None:
        """It has left the line, where it was in it.

        Args:
            waking_s: for so long of it no engine was ready; None: nobody counted.
            unready: no engine is ready now.
        """
        if not self._waits:
            return
        self._waits = False
        if waking_s is None:
            waking_s = until - since if self._unready and unready else 0.0
        wait = self._child("headgate.wait", self._root, since, {"headgate.outcome": outcome})
        if waking_s > 0:
            # Known is how long, not when: the beginning where it began so, else the end, which the engine's wake was.
            begin = since if self._unready else max(until - waking_s, since)
            wake = self._child("headgate.wake", wait, begin)
            wake.end(self._ns(min(begin + waking_s, until)))
        wait.end(self._ns(until))

    def asks(self, engine: str, request_id: str, now: float) -> TraceContext | None:
        """A try at ``engine`` begins; the context that the engine shall get."""
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.request.model": self._model,
            "headgate.engine": engine,
            "headgate.engine_request_id": request_id,
        }
        self._asked_at = now
        self._call = self._child(f"{self._operation} {self._model}", self._root, now, attributes, SpanKind.CLIENT)
        context = self._call.get_span_context()
        if not context.is_valid:
            return None
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return TraceContext(parent.encode(), context.trace_state.to_header().encode())

    def asked(self, now: float, outcome: str, first_at: float | None, tokens: tuple[int, int] | None) -> None:
        """The try is over.

        Args:
            first_at: when a stream's first event came.
            tokens: of prompt and answer, where the engine told them.
        """
        call, self._call = self._call, None
        if call is None:
            return
        if first_at is not None:
            self._child("headgate.first_token", call, self._asked_at).end(self._ns(first_at))
            self._child("headgate.stream", call, first_at).end(self._ns(now))
            call.set_attribute("gen_ai.response.time_to_first_chunk", first_at - self._asked_at)
        if tokens is not None:
            call.set_attributes({"gen_ai.usage.input_tokens": tokens[0], "gen_ai.usage.output_tokens": tokens[1]})
        _end(call, outcome, outcome not in (OK, LEFT), self._ns(now))

    def ends(self, now: float, status: int, reason: str, key: str, request_id: str, *, estimated: bool) -> None:
        """The request is over. ``estimated``: its tokens were counted from its events, and are in no span."""
        root = self._root
        root.set_attributes(
            {
                "http.response.status_code": status,
                "headgate.key": key,
                "headgate.request_id": request_id,
                "headgate.estimated": estimated,
            }
        )
        # By the convention for servers: 4xx is the caller's error. What breaks after the head has its 200.
        _end(root, reason, status >= 500 or (status < 400 and reason != OK), self._ns(now))

    def _child(
        self,
        name: str,
        parent: Span,
        since: float,
        attributes: dict[str, AttributeValue] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        return self._tracer.start_span(name, _below(parent), kind, attributes, start_time=self._ns(since))


class _Seldom(logging.Filter):
    """A collector that is gone is said once a minute, not with every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        due = record.created - self._said.get(record.msg, 0.0) >= SELDOM_S
        if due:
            self._said[record.msg] = record.created
        return due


def _below(parent: Span) -> Context:
    return trace.set_span_in_context(parent)


def _remote(caller: TraceContext) -> Span:
    state = TraceState.from_header([caller.state.decode()]) if caller.state else None
    ids = int(caller.trace_id, 16), int(caller.span_id, 16)
    return NonRecordingSpan(SpanContext(*ids, True, TraceFlags(caller.flags), state))


def _end(span: Span, reason: str, wrong: bool, at_ns: int) -> None:
    if reason != OK:
        span.set_attribute("error.type", reason)
    if wrong:
        span.set_status(StatusCode.ERROR)
    span.end(at_ns)
