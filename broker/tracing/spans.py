"""The spans of dispatches: from when the router takes a dispatch to its end, and of its wait for a worker.

Import it only where tracing is on. The broker decides what is sampled; workers follow, and make the spans of hooks.
"""

from time import time_ns
from typing import Final, Self

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tykpy.broker.codes import GrpcCode
from tykpy.broker.faults import report
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.peek import HOOK_TYPES
from tykpy.broker.tracing.incoming import PARENT, STATE, Carrier, incoming_trace
from tykpy.ipc.frame import EVENT_KINDS
from tykpy.ipc.text import bounded
from tykpy.telemetry.spans import UNSET, SpanExport

SERVICE: Final = "coprocess.Dispatcher"
FLUSH_S: Final = 2.0
"""Longest time that the end of the broker waits for spans to be exported, in seconds."""
STATUS_CODE: Final = "rpc.grpc.status_code"
"""Also for dispatches over other protocols: what the outcome would be in gRPC, as in metrics."""
_NO_ERROR: Final = frozenset({GrpcCode.OK, GrpcCode.CANCELLED})
_NO_PARENT: Final = Context()
_UNSAMPLED: Final = ("0", "2", "4", "6", "8", "a", "c", "e")
"""Last digit of a `traceparent` whose flags do not include "sampled"."""
_RANDOM: Final = 0x02
"""Flag of a `traceparent` whose trace id is random (W3C Trace Context, level 2)."""
_HALF_BITS: Final = 64
"""Half of a trace id, and the whole id of a span, in bits."""
_propagator: Final = TraceContextTextMapPropagator()


class DispatchSpans:
    """Begins the trace of each dispatch that is sampled."""

    def __init__(self, export: SpanExport) -> None:
        self._export = export
        self._sampler = sampler = export.sampler
        self._random_bits = export.ids.random_bits
        self._follows = isinstance(sampler, ParentBased)
        """Whether a dispatch is never sampled if its caller says that it is not."""
        root = getattr(sampler, "_root", sampler)
        everything = 1 << _HALF_BITS
        self._bound = root.bound if isinstance(root, TraceIdRatioBased) else 0 if root is ALWAYS_OFF else everything
        """A trace that begins here may be sampled if the lower half of its id is below it."""

    @classmethod
    def open(cls) -> Self:
        """Start to export; raises TracingError."""
        return cls(SpanExport("broker"))

    def begin(self, dispatch: Dispatch, hook: HookInfo) -> None:
        """Set the trace of a dispatch for this hook, if it is sampled."""
        try:
            incoming = incoming_trace(dispatch)
            if incoming is None:
                # Decided by half of the id, before there is anything else: nearly all dispatches end here.
                lower = self._random_bits(_HALF_BITS)
                if lower < self._bound:
                    self._begin(dispatch, hook, lower, _NO_PARENT)
            elif not self._follows or not incoming.parent.endswith(_UNSAMPLED):
                lower = self._random_bits(_HALF_BITS)
                self._begin(dispatch, hook, lower, _propagator.extract(incoming.carrier, _NO_PARENT))
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def shutdown(self) -> None:
        """Export what is left."""
        self._export.shutdown(FLUSH_S)

    def _begin(self, dispatch: Dispatch, hook: HookInfo, lower: int, continued: Context) -> None:
        """Ask the sampler; `lower` is the lower half of the trace's id if there is no valid trace to be continued."""
        parent: SpanContext | None = get_current_span(continued).get_span_context() if continued else None
        if parent is not None and parent.is_valid:
            trace_id, flags = parent.trace_id, TraceFlags.SAMPLED | parent.trace_flags & _RANDOM
        else:
            parent = None
            trace_id, flags = self._random_bits(_HALF_BITS) << _HALF_BITS | lower or 1, TraceFlags.SAMPLED | _RANDOM
        method = "DispatchEvent" if dispatch.kind in EVENT_KINDS else "Dispatch"
        name = f"{SERVICE}/{method}"
        kind = SpanKind.SERVER if dispatch.protocol else SpanKind.INTERNAL
        attributes = _attributes(dispatch, hook, method, self._export.max_text)
        result = self._sampler.should_sample(continued, trace_id, name, kind, attributes)
        if result.decision is Decision.RECORD_AND_SAMPLE:
            attributes |= result.attributes
            own = self._export.new_context(trace_id, TraceFlags(flags), result.trace_state)
            dispatch.trace = SampledDispatch(self._export, own, name, kind, parent, attributes)


class SampledDispatch:
    """The trace of one dispatch. Its spans are made at the end, when the caller has its answer."""

    __slots__ = (
        "_attempts", "_attributes", "_context", "_export", "_kind", "_name", "_parent", "_sent_ns", "_started_ns",
        "_worker", "carrier", "trace_id",
    )  # fmt: skip

    def __init__(
        self,
        export: SpanExport,
        context: SpanContext,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        attributes: dict[str, str | int],
    ) -> None:
        """`context` is that of the dispatch's span, for which the other arguments are."""
        self._export = export
        self._context = context
        self._name = name
        self._kind = kind
        self._parent = parent
        self._attributes = attributes
        self._started_ns = time_ns()
        self._sent_ns = 0
        self._worker = 0
        self._attempts = 0
        self.trace_id = f"{context.trace_id:032x}"
        """The id in hexadecimal."""
        self.carrier: Carrier = {PARENT: f"00-{self.trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"}
        """The dispatch's span, for the worker that makes children of it."""
        if context.trace_state:
            self.carrier[STATE] = context.trace_state.to_header()

    def sent(self, worker: int) -> None:
        """Note that the dispatch was given to a worker."""
        self._sent_ns = time_ns()
        self._worker = worker
        self._attempts += 1

    def end(self, code: int, message: str = "") -> None:
        """Export the spans of a dispatch that has ended; `code` is a `GrpcCode`, `message` says what failed."""
        try:
            self._end(code, message)
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def _end(self, code: int, message: str) -> None:
        now, started, context, export = time_ns(), self._started_ns, self._context, self._export
        queue = export.new_context(context.trace_id, context.trace_flags, context.trace_state)
        export.add(queue, "queue", context, (started, self._sent_ns or now))
        attributes, status = self._attributes, UNSET
        attributes[STATUS_CODE] = int(code)
        if self._attempts:
            attributes["tykpy.worker"] = self._worker
            attributes["tykpy.attempts"] = self._attempts
        if code not in _NO_ERROR:
            attributes["error.type"] = name = GrpcCode(code).name
            status = Status(StatusCode.ERROR, bounded(message or name, export.max_text))
        export.add(context, self._name, self._parent, (started, now), self._kind, attributes, status)


def _attributes(dispatch: Dispatch, hook: HookInfo, method: str, max_text: int) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"tykpy.hook": bounded(dispatch.name, max_text)}
    if dispatch.protocol:
        attributes |= {"rpc.system": dispatch.protocol, "rpc.service": SERVICE, "rpc.method": method}
    bundle, _ = hook.stats.id
    if bundle:
        attributes["tykpy.bundle"] = bounded(bundle, max_text)
    if dispatch.kind not in EVENT_KINDS:
        attributes["tykpy.api_id"] = bounded(dispatch.api_id, max_text)
        if 0 <= dispatch.hook_type < len(HOOK_TYPES):
            attributes["tykpy.hook_type"] = HOOK_TYPES[dispatch.hook_type]
    return attributes
