"""The spans of hooks, and of what plugins trace in them. Import it only where tracing is on.

Spans of hooks are children of the dispatch's span, which the broker makes. The broker also decides what is sampled:
in a dispatch without a trace nothing is, whatever a plugin's libraries trace.
"""

import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from opentelemetry.context import Context, attach
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceState,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes, AttributeValue

from tyk.call import RUNNING
from tykpy.bundles.hook import Hook
from tykpy.bundles.plugin_errors import class_name, described, from_plugin, traceback_of
from tykpy.ipc.clock import time_ns
from tykpy.ipc.text import bounded
from tykpy.telemetry.spans import MAX_VALUE, SpanExport, SpanIds, add_span, parse_parent
from tykpy.workers.dispatch.trace import HOOK_SPANS
from tykpy.workers.storage.contract import SharedStorage
from tykpy.workers.storage.failures import Health
from tykpy.workers.storage.traced import TracedStorage

FLUSH_S: Final = 1.0
"""Longest time that the end of a worker waits for spans to be exported, in seconds; the broker kills it after two."""
MAX_FRAMES: Final = 20
"""Innermost frames of a plugin's traceback that a span has."""
_ROOT: Final = Context()


class _RootsOutsideHooks(Sampler):
    """Samples spans without a parent as configured, but none of a hook: its dispatch is not sampled."""

    def __init__(self, configured: Sampler) -> None:
        self._configured = configured

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        sampler = self._configured if RUNNING.get() is None else ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"RootsOutsideHooks{{{self._configured.get_description()}}}"


class WorkerSpans:
    """Makes the spans of a worker's dispatches, and exports those of plugins and libraries too."""

    def __init__(self, worker: int) -> None:
        """Start to export; raises TracingError.

        Call it before any bundle is loaded: a library may replace `threading` (gevent.monkey).
        """
        self._export = SpanExport(f"worker {worker}", lambda configured: ParentBased(_RootsOutsideHooks(configured)))
        self._export.use_for_all()
        self._worker = worker

    def trace_storage(self, storage: SharedStorage, system: str, health: Health) -> SharedStorage:
        """Return the storage with spans for its operations; see `TracedStorage`."""
        return TracedStorage(storage, system, health, self._export.tracer)

    def close(self) -> None:
        """Export what is left."""
        self._export.shutdown(FLUSH_S)

    def enter(self, trace: dict[str, str]) -> None:
        """Begin a dispatch with the trace of its frame."""
        parent = parse_parent(trace["traceparent"], trace.get("tracestate", ""))
        HOOK_SPANS.set(_SampledCall(self._export, self._worker, parent))


class _SampledCall:
    """Makes the spans of the hooks of one dispatch."""

    __slots__ = ("_export", "_parent", "_worker")

    def __init__(self, export: SpanExport, worker: int, parent: SpanIds) -> None:
        self._export = export
        self._worker = worker
        self._parent = parent

    def begin(self, hook: Hook) -> "LazyHookSpan | None":
        """Begin the span of a hook, and make it the current one, until the next hook of the dispatch."""
        with suppress(Exception):  # a plugin may have patched what the SDK uses
            span = LazyHookSpan(self._export, hook, self._worker, self._parent)
            attach(set_span_in_context(span, _ROOT))
            return span
        return None


class LazyHookSpan(Span):
    """The span of a hook. It becomes one of the SDK, at four times the cost, as soon as anything is added to it."""

    def __init__(self, export: SpanExport, hook: Hook, worker: int, parent: SpanIds) -> None:
        self._ids = export.child_of(parent)
        self._export = export
        self._hook = hook
        self._worker = worker
        self._parent = parent
        self._started_ns = time_ns()
        self._ended_ns = 0

    @cached_property
    def context(self) -> SpanContext:
        return self._ids.context(is_remote=False)

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return not self._ended_ns

    def end(self, end_time: int | None = None) -> None:
        """Export it, once."""
        if not self._ended_ns:
            self._ended_ns = end_time or time_ns()
            with suppress(Exception):  # as above
                if "_changed" in self.__dict__:
                    self._changed.end(self._ended_ns)
                else:
                    self._export.add(self._write)

    def fail(self, error: BaseException) -> None:
        """Note what the hook raised, whatever the exception's own code does."""
        with suppress(BaseException):
            text = bounded(described(error), MAX_VALUE)
            self.set_status(StatusCode.ERROR, text)
            self.set_attribute("error.type", class_name(error))
            frames = traceback.extract_tb(from_plugin(traceback_of(error), self._hook.root), limit=-MAX_FRAMES)
            self.add_event(
                "exception",
                {
                    "exception.type": class_name(error),
                    "exception.message": text,
                    "exception.stacktrace": "".join(traceback.format_list(frames)),
                },
            )

    def _write(self, spans: ScopeSpans) -> None:
        name, attributes = self._description()
        times = self._started_ns, self._ended_ns
        add_span(spans, self._ids, self._parent.span_id, name, times, attributes, is_remote=True)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._changed.set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._changed.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._changed.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self._changed.add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self._changed.update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._changed.set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self._changed.record_exception(exception, attributes, timestamp, escaped)

    def __getattr__(self, name: str) -> Any:
        """Return what else a span of the SDK has, such as its attributes."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._changed, name)

    @cached_property
    def _changed(self) -> Span:
        name, attributes = self._description()
        parent = self._parent.context(is_remote=True)
        return self._export.running_span(self.context, name, parent, self._started_ns, attributes)

    def _description(self) -> tuple[str, dict[str, str | int]]:
        hook, max_text = self._hook, self._export.max_text
        name = bounded(hook.name, max_text)
        return f"hook {name}", {
            "tykpy.bundle": bounded(hook.bundle, max_text),
            "tykpy.hook": name,
            "tykpy.hook_type": hook.definition.hook_type or "Hook",
            "tykpy.worker": self._worker,
        }
