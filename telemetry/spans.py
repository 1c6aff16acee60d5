"""Makes the spans of one process and exports them over OTLP/HTTP, configured by the `OTEL_*` variables.

Import it only where tracing is on: it needs the extra `tykpy[otel]`, and starts a thread, so never before a fork.
A thread of the OpenTelemetry SDK sends spans in batches. A collector that is slow or down costs spans and nothing else.
"""

import _thread
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from queue import Empty, SimpleQueue
from random import Random
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
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
NO_ATTRIBUTES: Final[Mapping[str, str | int]] = {}
_LENGTH_LIMIT: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"
_DEFAULT_NAME: Final = "tykpy"
_UNNAMED: Final = "unknown_service"
"""Start of the SDK's name for a service without one."""

_start_new_thread: Final = _thread.start_new_thread
_Queue: Final = SimpleQueue
"""Bound before plugins are imported: a library may replace them (gevent.monkey)."""


def _unchanged(sampler: Sampler) -> Sampler:
    return sampler


class SpanExport:
    """The tracer of this process, and the export of what it makes.

    Raises TracingError from the constructor for a variable that cannot be meant.
    """

    def __init__(self, process: str, sampler: Callable[[Sampler], Sampler] = _unchanged) -> None:
        """`process`: its role, for the resource. `sampler` returns the sampler to use, given the configured one."""
        _quieten_sdk()
        self.ids = TraceIds()
        try:
            limits = span_limits()
            self._provider = TracerProvider(
                resource=_resource(process), shutdown_on_exit=False, id_generator=self.ids, span_limits=limits
            )
            self._provider.sampler = sampler(self._provider.sampler)
            self._processor = BatchSpanProcessor(OTLPSpanExporter())
            self._provider.add_span_processor(self._processor)
        except Exception as error:
            raise TracingError(f"OpenTelemetry cannot be set up, see the OTEL_* variables: {error}") from error
        self.max_text = max_text(limits)
        """Longest text of an attribute, in characters."""
        self.tracer = self._provider.get_tracer(_DEFAULT_NAME, version(_DEFAULT_NAME))
        self._scope = InstrumentationScope(_DEFAULT_NAME, version(_DEFAULT_NAME))

    @property
    def sampler(self) -> Sampler:
        """The sampler that decides about spans."""
        return self._provider.sampler

    def new_context(self, trace_id: int, flags: TraceFlags, state: TraceState | None) -> SpanContext:
        """Return the context of a new span."""
        return SpanContext(trace_id, self.ids.generate_span_id(), is_remote=False, trace_flags=flags, trace_state=state)

    def add(
        self,
        context: SpanContext,
        name: str,
        parent: SpanContext | None,
        times: tuple[int, int],
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, str | int] = NO_ATTRIBUTES,
        status: Status = UNSET,
    ) -> None:
        """Export a span that has ended. The caller has sampled it, and cut its texts to `max_text` characters.

        It costs a tenth of a span of the tracer, which may be changed by any thread until it ends.
        """
        start, end = times
        span = ReadableSpan(
            name, context, parent, self._provider.resource, attributes, kind=kind, status=status,
            start_time=start, end_time=end, instrumentation_scope=self._scope,
        )  # fmt: skip
        self._processor.on_end(span)

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


def max_text(limits: SpanLimits) -> int:
    """Return the longest text of an attribute, in characters."""
    return limits.max_span_attribute_length or sys.maxsize
