"""The spans of dispatches: from when the router takes a dispatch to its end, and of its wait for a worker.

Import it only where tracing is on. The broker decides what is sampled; workers follow, and make the spans of hooks.
"""

from time import time_ns
from typing import Any, Final, NamedTuple, Self

from opentelemetry.context import Context
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Status as OtlpStatus
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanKind, TraceFlags, TraceState, set_span_in_context
from opentelemetry.util.types import Attributes

from tykpy.broker.codes import GrpcCode
from tykpy.broker.faults import report
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.peek import HOOK_TYPES
from tykpy.broker.tracing.incoming import PARENT, STATE, Carrier, IncomingTrace, incoming_trace
from tykpy.ipc.frame import EVENT_KINDS
from tykpy.ipc.text import bounded
from tykpy.telemetry.spans import SpanExport, SpanIds, add_span, parse_parent

SERVICE: Final = "coprocess.Dispatcher"
FLUSH_S: Final = 2.0
"""Longest time that the end of the broker waits for spans to be exported, in seconds."""
STATUS_CODE: Final = "rpc.grpc.status_code"
"""Also for dispatches over other protocols: what the outcome would be in gRPC, as in metrics."""
_NO_ERROR: Final = frozenset({GrpcCode.OK, GrpcCode.CANCELLED})
_UNSAMPLED: Final = ("0", "2", "4", "6", "8", "a", "c", "e")
"""Last digit of a `traceparent` whose flags do not include "sampled"."""
_SAMPLED_RANDOM: Final = TraceFlags.SAMPLED | 0x02
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
        """A trace is sampled, unless its caller decides, if the lower half of its id is below it."""
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
                # Half of the id decides, before there is anything else: nearly all dispatches end here.
                lower = self._random_bits(_HALF_BITS)
                if lower < self._bound:
                    self._begin_root(dispatch, hook, lower)
            elif not self._follows or not incoming.parent.endswith(_UNSAMPLED):
                self._continue(dispatch, hook, incoming)
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def shutdown(self) -> None:
        """Export what is left."""
        self._export.shutdown(FLUSH_S)

    def _begin_root(self, dispatch: Dispatch, hook: HookInfo, lower: int) -> None:
        trace_id = self._random_bits(_HALF_BITS) << _HALF_BITS | lower or 1
        ids = SpanIds(f"{trace_id:032x}", self._export.ids.new_span_id(), _SAMPLED_RANDOM)
        self._begin(dispatch, hook, ids, None)

    def _continue(self, dispatch: Dispatch, hook: HookInfo, incoming: IncomingTrace) -> None:
        parent = parse_parent(incoming.parent, incoming.state)
        if not parent.is_valid:
            lower = self._random_bits(_HALF_BITS)
            if lower < self._bound:
                self._begin_root(dispatch, hook, lower)
        elif self._follows or int(parent.trace_id[_HALF_BITS // 4 :], 16) < self._bound:
            ids = self._export.child_of(parent)
            self._begin(dispatch, hook, ids._replace(flags=parent.flags | TraceFlags.SAMPLED), parent)

    def _begin(self, dispatch: Dispatch, hook: HookInfo, ids: SpanIds, parent: SpanIds | None) -> None:
        max_text = self._export.max_text
        called = _Called(
            dispatch.kind,
            dispatch.protocol,
            dispatch.hook_type,
            bounded(dispatch.name, max_text),
            bounded(dispatch.api_id, max_text),
            bounded(hook.stats.id[0], max_text),
        )
        added: Attributes = None
        if self._asked is not None:
            asked = _ask(self._asked, called, ids, parent)
            if asked.decision is not Decision.RECORD_AND_SAMPLE:
                return
            ids, added = ids._replace(state=(asked.trace_state or TraceState()).to_header()), asked.attributes
        dispatch.trace = SampledDispatch(self._export, called, ids, parent, added)


def _ask(sampler: Sampler, called: "_Called", ids: SpanIds, parent: SpanIds | None) -> SamplingResult:
    context = Context()
    if parent is not None:
        context = set_span_in_context(NonRecordingSpan(parent.context(is_remote=True)), context)
    kind = SpanKind.SERVER if called.protocol else SpanKind.INTERNAL
    return sampler.should_sample(context, int(ids.trace_id, 16), called.span_name, kind, called.attributes())


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
        "_ids",
        "_message",
        "_parent",
        "_sent_ns",
        "_started_ns",
        "_worker",
        "carrier",
        "trace_id",
    )

    def __init__(
        self, export: SpanExport, called: _Called, ids: SpanIds, parent: SpanIds | None, added: Attributes
    ) -> None:
        """`ids` are those of the dispatch's span, `added` what a sampler adds to its attributes."""
        self._started_ns = time_ns()
        self._sent_ns = self._ended_ns = self._code = self._worker = self._attempts = 0
        self._message = ""
        self._export = export
        self._called = called
        self._ids = ids
        self._parent = parent
        self._added = added
        self.trace_id = ids.trace_id
        """The id in hexadecimal."""
        self.carrier: Carrier = {PARENT: ids.header}
        """The dispatch's span, for the worker that makes children of it."""
        if ids.state:
            self.carrier[STATE] = ids.state

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
            self._export.add(self._write)
        except Exception as fault:  # noqa: BLE001 (it costs this trace)
            report(fault)

    def _write(self, spans: ScopeSpans) -> None:
        """Add the span of the wait for a worker, and that of the dispatch."""
        ids, called, parent = self._ids, self._called, self._parent
        attributes = called.attributes() | {STATUS_CODE: int(self._code), **(self._added or {})}
        if self._attempts:
            attributes |= {"tykpy.worker": self._worker, "tykpy.attempts": self._attempts}
        waited, lasted = (self._started_ns, self._sent_ns or self._ended_ns), (self._started_ns, self._ended_ns)
        add_span(spans, self._export.child_of(ids), ids.span_id, "queue", waited, {})
        parent_id = "" if parent is None else parent.span_id
        span = add_span(
            spans, ids, parent_id, called.span_name, lasted, attributes,
            is_server=bool(called.protocol), is_remote=parent is not None,
        )  # fmt: skip
        if self._code not in _NO_ERROR:
            name = GrpcCode(self._code).name
            span.attributes.add(key="error.type").value.string_value = name
            span.status.code = OtlpStatus.STATUS_CODE_ERROR
            span.status.message = self._message or name
