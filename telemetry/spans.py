"""Exports the spans of one process over OTLP/HTTP, configured by the `OTEL_*` variables.

Import it only where tracing is on: it needs the extra `tykpy[otel]`, and starts a thread, so never before a fork.
A thread of the OpenTelemetry SDK sends spans in batches. A collector that is slow or down costs spans and nothing else.
"""

import _thread
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from queue import Empty, SimpleQueue
from random import Random
from typing import Any, ClassVar, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, SpanFlags
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from tykpy.telemetry.log import Log
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.tracing import TracingError

MAX_VALUE: Final = 1024
"""Longest text of an attribute, in characters, unless OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT is set."""
_LENGTH_LIMIT: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"
_DEFAULT_NAME: Final = "tykpy"
_UNNAMED: Final = "unknown_service"
"""Start of the SDK's name for a service without one."""
_PACKAGE: Final = "opentelemetry-exporter-otlp-proto-http"
_ENCODER: Final = "encode_spans"
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_LOCAL_PARENT: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE_PARENT: Final = _LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_log: Final = QuietLog(Log("tykpy.tracing"))

_start_new_thread: Final = _thread.start_new_thread
_Queue: Final = SimpleQueue
"""Bound before plugins are imported: a library may replace them (gevent.monkey)."""


def _unchanged(sampler: Sampler) -> Sampler:
    return sampler


class SpanIds(NamedTuple):
    """The ids of a span, as a `traceparent` has them: in hexadecimal."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""
    """Its `tracestate`."""

    @property
    def is_valid(self) -> bool:
        """Whether no id is zero."""
        return self.trace_id != _NO_TRACE and self.span_id != _NO_SPAN

    @property
    def header(self) -> str:
        """The `traceparent` of its children."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def context(self, *, is_remote: bool) -> SpanContext:
        """Return them as the SDK has them; `is_remote`: the span is of another process."""
        state = TraceState.from_header([self.state]) if self.state else None
        return SpanContext(int(self.trace_id, 16), int(self.span_id, 16), is_remote, TraceFlags(self.flags), state)


def parse_parent(header: str, state: str = "") -> SpanIds:
    """Return the ids of a `traceparent`, which has the form of one, with its `tracestate`, which may have none."""
    valid_state = TraceState.from_header([state]).to_header() if state else ""
    return SpanIds(header[3:35], header[36:52], int(header[53:55], 16), valid_state)


WriteSpans = Callable[[ScopeSpans], object]
"""Adds the spans of a call, with `add_span`."""


class EndedCall:
    """A call that has ended. The thread that exports its spans makes them, many at a time."""

    __slots__ = ("write",)
    context: ClassVar = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    """What the SDK's batch processor reads of it: that it is sampled."""

    def __init__(self, write: WriteSpans) -> None:
        self.write = write


def add_span(
    spans: ScopeSpans,
    ids: SpanIds,
    parent_id: str,
    name: str,
    times: tuple[int, int],
    attributes: Mapping[str, Any],
    *,
    is_server: bool = False,
    is_remote: bool = False,
) -> OtlpSpan:
    """Add a span that has ended; `times`: its start and end. Texts have at most `max_text` characters.

    `is_remote`: its parent is of another process.
    """
    start, end = times
    span = spans.spans.add(
        trace_id=bytes.fromhex(ids.trace_id),
        span_id=bytes.fromhex(ids.span_id),
        trace_state=ids.state,
        parent_span_id=bytes.fromhex(parent_id),
        name=name,
        kind=OtlpSpan.SPAN_KIND_SERVER if is_server else OtlpSpan.SPAN_KIND_INTERNAL,
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        flags=_REMOTE_PARENT if is_remote else _LOCAL_PARENT,
    )
    add = span.attributes.add
    for key, value in attributes.items():
        _set_value(add(key=key).value, value)
    return span


def _set_value(field: AnyValue, value: object) -> None:
    if isinstance(value, str):
        field.string_value = value
    elif isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int):
        field.int_value = value
    elif isinstance(value, float):
        field.double_value = value
    elif isinstance(value, bytes):
        field.bytes_value = value
    elif isinstance(value, Sequence):
        field.array_value.SetInParent()
        for one in value:
            _set_value(field.array_value.values.add(), one)
    else:
        raise TypeError(f"an attribute of type {type(value).__name__}")


class SpanBatch(list[ReadableSpan | EndedCall]):
    """Spans of the SDK, and calls, that are exported together."""

    def __init__(self, spans: Sequence[ReadableSpan | EndedCall], origin: ResourceSpans) -> None:
        """`origin`: the resource and the scope of the calls' spans."""
        super().__init__(spans)
        self._origin = origin

    def encode(self) -> ExportTraceServiceRequest:
        """Return the request that exports them. A call whose spans cannot be made costs no others."""
        request = encode_spans([one for one in self if isinstance(one, ReadableSpan)])
        calls = [one for one in self if isinstance(one, EndedCall)]
        if calls:
            group = request.resource_spans.add()
            group.CopyFrom(self._origin)
            (spans,) = group.scope_spans
            for call in calls:
                count = len(spans.spans)
                try:
                    call.write(spans)
                except Exception as fault:  # noqa: BLE001 (it costs this call's spans)
                    del spans.spans[count:]
                    _log.log(logging.WARNING, "spans", f"the spans of a call are lost: {fault}")
        return request


def _encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    return spans.encode() if isinstance(spans, SpanBatch) else encode_spans(spans)


def _extend_exporter() -> None:
    """Let the SDK's exporter encode calls, too: making spans of the SDK for them takes four times as long.

    Raises TracingError for a version that does not encode with this function any more.
    """
    if not hasattr(trace_exporter, _ENCODER):
        raise TracingError(f"{_PACKAGE} {version(_PACKAGE)} is too new: pip install '{_PACKAGE}<=1.45.2'")
    setattr(trace_exporter, _ENCODER, _encode)


class BatchExporter(SpanExporter):
    """Exports what the batch processor has collected."""

    def __init__(self, exporter: SpanExporter, origin: ResourceSpans) -> None:
        self._exporter = exporter
        self._origin = origin

    def export(self, spans: Sequence[ReadableSpan | EndedCall]) -> SpanExportResult:
        """Export a batch."""
        return self._exporter.export(SpanBatch(spans, self._origin))  # type: ignore[arg-type]  # it is encoded by `_encode`

    def shutdown(self) -> None:
        """Give up what is being exported."""
        self._exporter.shutdown()


class _RunningSpan(Span):
    """A span that is made without a tracer: its context and its sampling are decided."""


class SpanExport:
    """The tracer of this process, and the export of what it makes.

    Raises TracingError from the constructor for a variable that cannot be meant.
    """

    def __init__(self, process: str, sampler: Callable[[Sampler], Sampler] = _unchanged) -> None:
        """`process`: its role, for the resource. `sampler` returns the sampler to use, given the configured one."""
        _quieten_sdk()
        _extend_exporter()
        self.ids = TraceIds()
        self._scope = InstrumentationScope(_DEFAULT_NAME, version(_DEFAULT_NAME))
        try:
            self._limits = span_limits()
            resource = _resource(process)
            self._provider = TracerProvider(
                resource=resource, shutdown_on_exit=False, id_generator=self.ids, span_limits=self._limits
            )
            self._provider.sampler = sampler(self._provider.sampler)
            exporter = BatchExporter(trace_exporter.OTLPSpanExporter(), origin_of(resource, self._scope))
            self._processor = BatchSpanProcessor(exporter)
            self._provider.add_span_processor(self._processor)
        except Exception as error:
            raise TracingError(f"OpenTelemetry cannot be set up, see the OTEL_* variables: {error}") from error
        self.max_text = max_text(self._limits)
        """Longest text of an attribute, in characters."""
        self.tracer = self._provider.get_tracer(_DEFAULT_NAME, version(_DEFAULT_NAME))

    @property
    def sampler(self) -> Sampler:
        """The sampler that decides about spans."""
        return self._provider.sampler

    def child_of(self, parent: SpanIds) -> SpanIds:
        """Return the ids of a new span of the parent's trace."""
        return SpanIds(parent.trace_id, self.ids.new_span_id(), parent.flags, parent.state)

    def add(self, write: WriteSpans) -> None:
        """Export the spans of a call that has ended."""
        self._processor.on_end(EndedCall(write))  # type: ignore[arg-type]  # it reads the context only

    def running_span(
        self, context: SpanContext, name: str, parent: SpanContext, start: int, attributes: Mapping[str, str | int]
    ) -> Span:
        """Make a span of the SDK that runs, and is exported when it ends."""
        span = _RunningSpan(
            name,
            context,
            parent,
            resource=self._provider.resource,
            attributes=attributes,
            span_processor=self._processor,
            limits=self._limits,
            instrumentation_scope=self._scope,
        )
        span.start(start)
        return span

    def use_for_all(self) -> None:
        """Export what libraries and plugins trace as well: the provider becomes the process's own."""
        trace.set_tracer_provider(self._provider)

    def shutdown(self, seconds: float) -> None:
        """Export what is left, for at most `seconds`; the rest is lost."""
        done: SimpleQueue[None] = _Queue()

        def flush() -> None:
            with suppress(BaseException):  # spans are lost, whatever it was
                self._provider.shutdown()
            done.put(None)

        with suppress(Empty, RuntimeError):
            _start_new_thread(flush, ())
            done.get(timeout=seconds)


class TraceIds(IdGenerator):
    """Makes ids from a generator of its own: one that a plugin seeds would repeat them in every worker."""

    def __init__(self) -> None:
        self.random_bits = Random().getrandbits

    def new_span_id(self) -> str:
        """Return a random id in hexadecimal."""
        return f"{self.generate_span_id():016x}"

    def generate_span_id(self) -> int:
        """Return a random id."""
        return self.random_bits(64) or 1

    def generate_trace_id(self) -> int:
        """Return a random id."""
        return self.random_bits(128) or 1

    def is_trace_id_random(self) -> bool:
        """Return whether all ids are random, which `traceparent` then says."""
        return True


class _QuietHandler(logging.Handler):
    """Logs what the SDK reports once a minute: every process goes on trying to reach a collector that is down."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.log(record.levelno, f"{record.name} {record.msg}", record.getMessage())


def _quieten_sdk() -> None:
    for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [_QuietHandler()]
        logger.propagate = False


def _resource(process: str) -> Resource:
    resource = Resource.create(
        {SERVICE_VERSION: version(_DEFAULT_NAME), "process.pid": os.getpid(), "tykpy.process": process}
    )
    if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
        resource = resource.merge(Resource({SERVICE_NAME: _DEFAULT_NAME}))
    return resource


def origin_of(resource: Resource, scope: InstrumentationScope) -> ResourceSpans:
    """Return a resource and a scope as OTLP has them, without spans."""
    span = ReadableSpan("", EndedCall.context, resource=resource, instrumentation_scope=scope)
    (origin,) = encode_spans([span]).resource_spans
    del origin.scope_spans[0].spans[:]
    return origin


def span_limits() -> SpanLimits:
    """Return the limits of spans, given the environment."""
    return SpanLimits() if _LENGTH_LIMIT in os.environ else SpanLimits(max_attribute_length=MAX_VALUE)


def max_text(limits: SpanLimits) -> int:
    """Return the longest text of an attribute, in characters."""
    return limits.max_span_attribute_length or sys.maxsize
