"""Makes the spans of one process and exports them over OTLP/HTTP, configured by the `OTEL_*` variables.

Import it only where tracing is on: it needs the extra `tykpy[otel]`, and starts a thread, so never before a fork.
A thread of the OpenTelemetry SDK sends spans in batches. A collector that is slow or down costs spans and nothing else.
"""

import _thread
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from queue import Empty, SimpleQueue
from random import Random
from typing import Final, Protocol

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, TraceFlags, TraceState

from tykpy.telemetry.log import Log
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.tracing import TracingError

MAX_VALUE: Final = 1024
"""Longest text of an attribute, in characters, unless OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT is set."""
UNSET: Final = Status()
_LENGTH_LIMIT: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"
_DEFAULT_NAME: Final = "tykpy"
_UNNAMED: Final = "unknown_service"
"""Start of the SDK's name for a service without one."""

_start_new_thread: Final = _thread.start_new_thread
_Queue: Final = SimpleQueue
"""Bound before plugins are imported: a library may replace them (gevent.monkey)."""


def _unchanged(sampler: Sampler) -> Sampler:
    return sampler


class SampledCall(Protocol):
    """A call that has ended. Its spans are made by the thread that exports them, many at a time."""

    @property
    def context(self) -> SpanContext:
        """The context of its own span."""

    def spans(self) -> Iterable[ReadableSpan]:
        """Make its spans."""


class CallExporter(SpanExporter):
    """Exports spans, and those of calls."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan | SampledCall]) -> SpanExportResult:
        """Export the spans of a batch."""
        return self._exporter.export(
            [span for one in spans for span in ((one,) if isinstance(one, ReadableSpan) else one.spans())]
        )

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
        self.ids = TraceIds()
        try:
            self._limits = span_limits()
            self._provider = TracerProvider(
                resource=_resource(process), shutdown_on_exit=False, id_generator=self.ids, span_limits=self._limits
            )
            self._provider.sampler = sampler(self._provider.sampler)
            self._processor = BatchSpanProcessor(CallExporter(OTLPSpanExporter()))
            self._provider.add_span_processor(self._processor)
        except Exception as error:
            raise TracingError(f"OpenTelemetry cannot be set up, see the OTEL_* variables: {error}") from error
        self.max_text = max_text(self._limits)
        """Longest text of an attribute, in characters."""
        self.tracer = self._provider.get_tracer(_DEFAULT_NAME, version(_DEFAULT_NAME))
        self._scope = InstrumentationScope(_DEFAULT_NAME, version(_DEFAULT_NAME))

    @property
    def sampler(self) -> Sampler:
        """The sampler that decides about spans."""
        return self._provider.sampler

    def new_context(self, parent: SpanContext, *, sampled: bool = False) -> SpanContext:
        """Return the context of a new span of the parent's trace; `sampled`: even if the parent is not."""
        flags = TraceFlags(parent.trace_flags | TraceFlags.SAMPLED) if sampled else parent.trace_flags
        return SpanContext(parent.trace_id, self.ids.generate_span_id(), False, flags, parent.trace_state)

    def add(self, call: SampledCall) -> None:
        """Export a call that has ended."""
        self._processor.on_end(call)  # type: ignore[arg-type]  # it reads the context; CallExporter has the rest

    def ended_span(
        self,
        context: SpanContext,
        name: str,
        parent: SpanContext | None,
        times: tuple[int, int],
        attributes: Mapping[str, str | int] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> ReadableSpan:
        """Make a span that has ended; `times`: its start and end. Texts have at most `max_text` characters."""
        start, end = times
        return ReadableSpan(
            name,
            context,
            parent,
            self._provider.resource,
            attributes,
            kind=kind,
            status=status or UNSET,
            start_time=start,
            end_time=end,
            instrumentation_scope=self._scope,
        )

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

    def __init__(self) -> None:
        super().__init__()
        self._log = QuietLog(Log("tykpy.tracing"))

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, f"{record.name} {record.msg}", record.getMessage())


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


def span_limits() -> SpanLimits:
    """Return the limits of spans, given the environment."""
    return SpanLimits() if _LENGTH_LIMIT in os.environ else SpanLimits(max_attribute_length=MAX_VALUE)


def parse_parent(parent: str, state: str = "") -> SpanContext:
    """Return the context of a span from its `traceparent`, which has the form of one, and its `tracestate`.

    It is not valid if an id is zero.
    """
    return SpanContext(
        int(parent[3:35], 16),
        int(parent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(parent[53:55], 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def max_text(limits: SpanLimits) -> int:
    """Return the longest text of an attribute, in characters."""
    return limits.max_span_attribute_length or sys.maxsize
