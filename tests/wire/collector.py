"""A little OpenTelemetry collector: takes OTLP over HTTP, and keeps the spans."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.wire.gateway import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it was sent, ids as they stand in a ``traceparent``."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status: int
    resource: dict[str, Any]


@dataclass
class Collector:
    """What it got. ``silent``: it takes connections and says nothing."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""
    silent: bool = False
    open: threading.Event = field(default_factory=threading.Event)

    def trace(self, trace_id: str, count: int) -> dict[str, Span]:
        """A trace's spans by name, once there are so many of them."""
        spans = wait_until(
            lambda: len(found := [span for span in self.spans if span.trace_id == trace_id]) >= count and found,
            f"{count} spans of {trace_id}; {[span.name for span in self.spans]}",
        )
        assert len(spans) == count, [span.name for span in spans]
        return {span.name: span for span in spans}


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _spans(body: bytes) -> Iterator[Span]:
    message = ExportTraceServiceRequest.FromString(body)
    for of_resource in message.resource_spans:
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.trace_state,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _values(span.attributes),
                    span.status.code,
                    _values(of_resource.resource.attributes),
                )


@contextmanager
def collector(*, silent: bool = False) -> Iterator[Collector]:
    """It listens on loopback."""
    kept = Collector(silent=silent)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if kept.silent:
                kept.open.wait(60)
                return
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            kept.raw += body
            kept.spans += _spans(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
            """It says nothing."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A gateway that was ended is none."""

    with Server(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield kept
        finally:
            kept.open.set()
            server.shutdown()
            thread.join()
