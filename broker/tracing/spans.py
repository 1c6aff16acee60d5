"""The spans of dispatches: from when the router takes a dispatch to its end, and of its wait for a worker.

Import it only where tracing is on. The broker decides what is sampled; workers follow, and make the spans of hooks.
"""

from time import time_ns
from typing import Any, Final, NamedTuple, Self

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes

from tykpy.broker.codes import GrpcCode
from tykpy.broker.faults import report
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.peek import HOOK_TYPES
from tykpy.broker.tracing.incoming import PARENT, STATE, Carrier, IncomingTrace, incoming_trace
from tykpy.ipc.frame import EVENT_KINDS
from tykpy.ipc.text import bounded
from tykpy.telemetry.spans import SpanExport, parse_parent

SERVICE: Final = "coprocess.Dispatcher"
FLUSH_S: Final = 2.0
"""Longest time that the end of the broker waits for spans to be exported, in seconds."""
STATUS_CODE: Final = "rpc.grpc.status_code"
"""Also for dispatches over other protocols: what the outcome would be in gRPC, as in metrics."""
_NO_ERROR: Final = frozenset({GrpcCode.OK, GrpcCode.CANCELLED})
_UNSAMPLED: Final = ("0", "2", "4", "6", "8", "a", "c", "e")
"""Last digit of a `traceparent` whose flags do not include "sampled"."""
_SAMPLED_RANDOM: Final = TraceFlags(TraceFlags.SAMPLED | 0x02)
"""Flags of a trace that begins here: sampled, and its id is random (W3C Trace Context, level 2)."""
_HALF_BITS: Final = 64
"""Half of a trace id, in bits."""
_EVERYTHING: Final = 1 << _HALF_BITS
_DECIDED_HERE: Final = (StaticSampler, TraceIdRatioBased, ParentBased, ParentBasedTraceIdRatio)
"""Samplers of the SDK, which are not asked: what they do takes a comparison."""


class DispatchSpans:
    """Begins the trace of each dispatch that is sampled."""

    def __init__(self, export: SpanExport) -> None:
        self._export = export
        self._random_bits = export.ids.random_bits
        sampler = export.sampler
        self._follows = isinstance(sampler, ParentBased)
        """Whether a dispatch is never sampled if its caller says that it is not."""
        root = getattr(sampler, "_root", sampler)
        self._bound = root.bound if isinstance(root, TraceIdRatioBased) else 0 if root is ALWAYS_OFF else _EVERYTHING
        """A trace is not sampled, unless its caller decides, if the lower half of its id is not below it."""
        self._asked = None if type(sampler) in _DECIDED_HERE and type(root) in _DECIDED_HERE else sampler
        """The sampler of another package."""

    @classmethod
    def open(cls) -> Self:
        """Start to export; raises TracingError."""
        return cls(SpanExport("broker"))

    def begin(self, dispatch: Dispatch, hook: HookInfo) -> None:
        """Set the trace of a dispatch for this hook, if it is sampled."""
        try:
            incoming = incoming_trace(dispatch)
            if incoming is None:
                self._begin_root(dispatch, hook)
            elif not self._follows or not incoming.parent.endswith(_UNSAMPLED):
                self._continue(dispatch, hook, incoming)
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def shutdown(self) -> None:
        """Export what is left."""
        self._export.shutdown(FLUSH_S)

    def _begin_root(self, dispatch: Dispatch, hook: HookInfo) -> None:
        # Half of the id decides, before there is anything else: nearly all dispatches end here.
        lower = self._random_bits(_HALF_BITS)
        if lower < self._bound:
            trace_id = self._random_bits(_HALF_BITS) << _HALF_BITS | lower or 1
            span_id = self._export.ids.generate_span_id()
            context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED_RANDOM)
            self._begin(dispatch, hook, context, None)

    def _continue(self, dispatch: Dispatch, hook: HookInfo, incoming: IncomingTrace) -> None:
        parent = parse_parent(incoming.parent, incoming.state)
        if not parent.is_valid:
            self._begin_root(dispatch, hook)
        elif self._follows or parent.trace_id % _EVERYTHING < self._bound:
            context = self._export.new_context(parent, sampled=True)
            self._begin(dispatch, hook, context, parent)

    def _begin(self, dispatch: Dispatch, hook: HookInfo, context: SpanContext, parent: SpanContext | None) -> None:
        max_text = self._export.max_text
        texts = (bounded(text, max_text) for text in (dispatch.name, dispatch.api_id, hook.stats.id[0]))
        called = _Called(dispatch.kind, dispatch.protocol, dispatch.hook_type, *texts)
        added: Attributes = None
        if self._asked is not None:
            continued = Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())
            asked = self._asked.should_sample(
                continued, context.trace_id, called.span_name, called.span_kind, called.attributes()
            )
            if asked.decision is not Decision.RECORD_AND_SAMPLE:
                return
            context, added = SpanContext(*context[:4], asked.trace_state), asked.attributes
        dispatch.trace = SampledDispatch(self._export, called, context, parent, added)


class _Called(NamedTuple):
    """What a dispatch calls, as its span says it."""

    kind: int
    protocol: str
    hook_type: int
    name: str
    api_id: str
    bundle: str

    @property
    def method(self) -> str:
        return "DispatchEvent" if self.kind in EVENT_KINDS else "Dispatch"

    @property
    def span_name(self) -> str:
        return f"{SERVICE}/{self.method}"

    @property
    def span_kind(self) -> SpanKind:
        return SpanKind.SERVER if self.protocol else SpanKind.INTERNAL

    def attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {"tykpy.hook": self.name}
        if self.protocol:
            attributes |= {"rpc.system": self.protocol, "rpc.service": SERVICE, "rpc.method": self.method}
        if self.bundle:
            attributes["tykpy.bundle"] = self.bundle
        if self.kind not in EVENT_KINDS:
            attributes["tykpy.api_id"] = self.api_id
            if 0 <= self.hook_type < len(HOOK_TYPES):
                attributes["tykpy.hook_type"] = HOOK_TYPES[self.hook_type]
        return attributes


class SampledDispatch:
    """The trace of one dispatch. Its spans are made when they are exported, after the caller has its answer."""

    __slots__ = (
        "_added",
        "_attempts",
        "_called",
        "_code",
        "_ended_ns",
        "_export",
        "_message",
        "_parent",
        "_sent_ns",
        "_started_ns",
        "_worker",
        "carrier",
        "context",
        "trace_id",
    )

    def __init__(
        self, export: SpanExport, called: _Called, context: SpanContext, parent: SpanContext | None, added: Attributes
    ) -> None:
        """`context` is that of the dispatch's span, `added` what a sampler adds to its attributes."""
        self._started_ns = time_ns()
        self._sent_ns = self._ended_ns = self._code = self._worker = self._attempts = 0
        self._message = ""
        self._export = export
        self._called = called
        self._parent = parent
        self._added = added
        self.context = context
        self.trace_id = trace_id = f"{context.trace_id:032x}"
        """The id in hexadecimal."""
        self.carrier: Carrier = {PARENT: f"00-{trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"}
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
            self._ended_ns = time_ns()
            self._code = code
            if message:
                self._message = bounded(message, self._export.max_text)
            self._export.add(self)
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def spans(self) -> tuple[ReadableSpan, ReadableSpan]:
        """Make the span of the wait for a worker, and that of the dispatch."""
        export, context, called = self._export, self.context, self._called
        attributes = called.attributes() | {STATUS_CODE: int(self._code), **(self._added or {})}
        status = None
        if self._attempts:
            attributes |= {"tykpy.worker": self._worker, "tykpy.attempts": self._attempts}
        if self._code not in _NO_ERROR:
            attributes["error.type"] = name = GrpcCode(self._code).name
            status = Status(StatusCode.ERROR, self._message or name)
        waited, lasted = (self._started_ns, self._sent_ns or self._ended_ns), (self._started_ns, self._ended_ns)
        return (
            export.ended_span(export.new_context(context), "queue", context, waited),
            export.ended_span(context, called.span_name, self._parent, lasted, attributes, called.span_kind, status),
        )
