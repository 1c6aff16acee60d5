"""The spans of dispatches: from when the router takes a dispatch to its end, and of its wait for a worker.

Import it only where tracing is on. The broker decides what is sampled; workers follow, and make the spans of hooks.
"""

from time import time_ns
from typing import Final, Self

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tykpy.broker.codes import GrpcCode
from tykpy.broker.faults import report
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.peek import HOOK_TYPES, Peek, peek, peek_map
from tykpy.broker.tracing.incoming import PARENT, Carrier, incoming_trace
from tykpy.ipc.frame import EVENT_KINDS, Kind
from tykpy.ipc.text import bounded
from tykpy.telemetry.spans import MAX_VALUE, SpanExport

SERVICE: Final = "coprocess.Dispatcher"
FLUSH_S: Final = 2.0
"""Longest time that the end of the broker waits for spans to be exported, in seconds."""
STATUS_CODE: Final = "rpc.grpc.status_code"
"""Also for dispatches over other protocols: what the outcome would be in gRPC, as in metrics."""
_NO_ERROR: Final = frozenset({GrpcCode.OK, GrpcCode.CANCELLED})
_ROOT: Final = Context()
_UNSAMPLED: Final = ("0", "2", "4", "6", "8", "a", "c", "e")
"""Last digit of a `traceparent` whose flags do not include "sampled"."""
_propagator: Final = TraceContextTextMapPropagator()


class DispatchSpans:
    """Begins the trace of each dispatch that is sampled."""

    def __init__(self, export: SpanExport) -> None:
        self._export = export
        sampler = export.sampler
        self._follows = isinstance(sampler, ParentBased)
        """Whether a dispatch is never sampled if its caller says that it is not."""
        root = getattr(sampler, "_root", sampler)
        self._bound = root.bound if isinstance(root, TraceIdRatioBased) else 0 if root is ALWAYS_OFF else None
        """Traces that begin here are sampled if the lower half of their id is below it; None: the sampler decides."""

    @classmethod
    def open(cls) -> Self:
        """Start to export; raises TracingError."""
        return cls(SpanExport("broker"))

    def begin(self, dispatch: Dispatch, hook: HookInfo) -> None:
        """Set the trace of a dispatch for this hook, if it is sampled."""
        try:
            carrier = incoming_trace(dispatch)
            if carrier is None:
                self._begin_root(dispatch, hook)
            elif not self._follows or not carrier[PARENT].endswith(_UNSAMPLED):
                self._begin(dispatch, hook, _propagator.extract(carrier, _ROOT))
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def shutdown(self) -> None:
        """Export what is left."""
        self._export.shutdown(FLUSH_S)

    def _begin_root(self, dispatch: Dispatch, hook: HookInfo) -> None:
        # Decided here if possible: a span that is not sampled costs a tenth of a dispatch.
        ids = self._export.ids
        trace_id = ids.generate_trace_id()
        if self._bound is None or trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound:
            ids.next_trace_id = trace_id
            self._begin(dispatch, hook, _ROOT)

    def _begin(self, dispatch: Dispatch, hook: HookInfo, parent: Context) -> None:
        started = time_ns()
        method = "DispatchEvent" if dispatch.kind in EVENT_KINDS else "Dispatch"
        span = self._export.tracer.start_span(
            f"{SERVICE}/{method}",
            parent,
            SpanKind.SERVER if dispatch.protocol else SpanKind.INTERNAL,
            _attributes(dispatch, hook, method),
            start_time=started,
        )
        if span.get_span_context().trace_flags.sampled:
            dispatch.trace = SampledDispatch(self._export.tracer, span, started)


class SampledDispatch:
    """The trace of one dispatch. Its spans are finished at the end, when the caller has its answer."""

    __slots__ = ("_attempts", "_context", "_sent_ns", "_span", "_started_ns", "_tracer", "_worker", "carrier")

    def __init__(self, tracer: Tracer, span: Span, started_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, _ROOT)
        self._started_ns = started_ns
        self._sent_ns = 0
        self._worker = 0
        self._attempts = 0
        self.carrier: Carrier = {}
        """The dispatch's span, for the worker that makes children of it."""
        _propagator.inject(self.carrier, self._context)

    @property
    def trace_id(self) -> str:
        """The id in hexadecimal."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def sent(self, worker: int) -> None:
        """Note that the dispatch was given to a worker."""
        self._sent_ns = time_ns()
        self._worker = worker
        self._attempts += 1

    def end(self, code: int, message: str = "") -> None:
        """Export the spans of a dispatch that has ended; `code` is a `GrpcCode`, `message` says what failed."""
        try:
            self._end(GrpcCode(code), message)
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def _end(self, code: GrpcCode, message: str) -> None:
        now, span = time_ns(), self._span
        self._tracer.start_span("queue", self._context, start_time=self._started_ns).end(self._sent_ns or now)
        span.set_attribute(STATUS_CODE, int(code))
        if self._attempts:
            span.set_attributes({"tykpy.worker": self._worker, "tykpy.attempts": self._attempts})
        if code not in _NO_ERROR:
            span.set_attribute("error.type", code.name)
            span.set_status(StatusCode.ERROR, bounded(message or code.name, MAX_VALUE))
        span.end(now)


def _attributes(dispatch: Dispatch, hook: HookInfo, method: str) -> dict[str, str]:
    attributes = {"tykpy.hook": bounded(dispatch.name, MAX_VALUE)}
    if dispatch.protocol:
        attributes |= {"rpc.system": dispatch.protocol, "rpc.service": SERVICE, "rpc.method": method}
    bundle, _ = hook.stats.id
    if bundle:
        attributes["tykpy.bundle"] = bundle
    if dispatch.kind not in EVENT_KINDS:
        seen = _peek(dispatch)
        attributes["tykpy.api_id"] = bounded(seen.api_id, MAX_VALUE)
        if 0 <= seen.hook_type < len(HOOK_TYPES):
            attributes["tykpy.hook_type"] = HOOK_TYPES[seen.hook_type]
    return attributes


def _peek(dispatch: Dispatch) -> Peek:
    """Look into the object again; what was seen is remembered."""
    body = dispatch.body
    if dispatch.kind == Kind.OBJECT_MAP:
        return peek_map(dispatch.encoded)
    return peek(body) if isinstance(body, bytes) else peek(body.view())
