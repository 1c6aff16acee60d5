"""A real OTLP/HTTP collector: decodes what is exported to it, and can be told to hold its answers back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.broker import wait_until


class ReceivedSpan(NamedTuple):
    """One exported span; ids are in hexadecimal, an empty parent is none."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    error: str | None
    """The message of the status if it is an error."""
    attributes: dict[str, Any]
    events: dict[str, dict[str, Any]]
    state: str
    resource: dict[str, Any]
    links: list[str]
    """Ids of the spans that it links."""


class Collector:
    """What a test sees of the collector."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[ReceivedSpan] = []
        self.requests = 0
        """Requests that have arrived, answered or not."""
        self.answers = threading.Event()
        """While it is not set, requests wait for their answers."""
        self.answers.set()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a broker that exports here, soon after a span has ended."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}

    def trace(self, trace_id: str, *names: str) -> dict[str, ReceivedSpan]:
        """Wait until a trace has spans of these names; return its spans by name."""

        def found() -> dict[str, ReceivedSpan]:
            return {span.name: span for span in self.spans if span.trace_id == trace_id}

        wait_until(lambda: found().keys() >= set(names), lambda: f"{names}; there are {list(found())}")
        return found()

    def add(self, body: bytes) -> None:
        """Decode a request."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_span(span, resource) for span in scope.spans]


def _span(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
        _values(span.attributes),
        {event.name: _values(event.attributes) for event in span.events},
        span.trace_state,
        resource,
        [link.span_id.hex() for link in span.links],
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A connection for each request (HTTP/1.0): between two tests there are none.

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests += 1
            collector.answers.wait()
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            collector.add(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is http.server's)
            """Say nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore brokers that were stopped while they waited."""


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Collect spans for the time of a `with` block; brokers must end before it does."""
    collector = Collector()
    with _Server(("127.0.0.1", 0), _handler(collector)) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collector
        finally:
            collector.answers.set()
            server.shutdown()
            thread.join()
