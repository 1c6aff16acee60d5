"""The spans of hooks, and of what plugins trace in them. Import it only where tracing is on.

Spans of hooks are children of the dispatch's span, which the broker makes. The broker also decides what is sampled:
in a dispatch without a trace nothing is, whatever a plugin's libraries trace.
"""

import traceback
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Token
from typing import Any, Final

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TraceState, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tyk.call import RUNNING
from tykpy.bundles.hook import Hook
from tykpy.bundles.plugin_errors import class_name, described, from_plugin
from tykpy.ipc.text import bounded
from tykpy.telemetry.spans import MAX_VALUE, SpanExport
from tykpy.workers.dispatch.trace import HOOK_SPANS
from tykpy.workers.storage.contract import SharedStorage
from tykpy.workers.storage.failures import Health
from tykpy.workers.storage.traced import TracedStorage

FLUSH_S: Final = 1.0
"""Longest time that the end of a worker waits for spans to be exported, in seconds; the broker kills it after two."""
MAX_FRAMES: Final = 20
"""Innermost frames of a plugin's traceback that a span has."""
_ROOT: Final = Context()
_propagator: Final = TraceContextTextMapPropagator()


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
        self._tracer = self._export.tracer
        self._worker = worker

    def trace_storage(self, storage: SharedStorage, system: str, health: Health) -> SharedStorage:
        """Return the storage with spans for its operations; see `TracedStorage`."""
        return TracedStorage(storage, system, health, self._tracer)

    def close(self) -> None:
        """Export what is left."""
        self._export.shutdown(FLUSH_S)

    def enter(self, trace: dict[str, str] | None) -> None:
        """Begin a dispatch with the trace of its frame, or without one."""
        if trace is not None:
            HOOK_SPANS.set(_SampledCall(self._tracer, self._worker, _propagator.extract(trace, _ROOT)))
        elif HOOK_SPANS.get() is not None:
            HOOK_SPANS.set(None)


class _SampledCall:
    """Makes the spans of the hooks of one dispatch."""

    __slots__ = ("_parent", "_tracer", "_worker")

    def __init__(self, tracer: Tracer, worker: int, parent: Context) -> None:
        self._tracer = tracer
        self._worker = worker
        self._parent = parent

    def begin(self, hook: Hook) -> "_RunningHook | None":
        """Begin the span of a hook, and make it the current one."""
        with suppress(Exception):  # a plugin may have patched what the SDK uses
            attributes: dict[str, str | int] = {
                "tykpy.bundle": hook.bundle,
                "tykpy.hook": hook.name,
                "tykpy.hook_type": hook.definition.hook_type or "Hook",
                "tykpy.worker": self._worker,
            }
            span = self._tracer.start_span(f"hook {hook.name}", self._parent, SpanKind.INTERNAL, attributes)
            return _RunningHook(span, hook, attach(set_span_in_context(span, self._parent)))
        return None


class _RunningHook:
    __slots__ = ("_hook", "_span", "_token")

    def __init__(self, span: Span, hook: Hook, token: Token[Context]) -> None:
        self._span = span
        self._hook = hook
        self._token = token

    def fail(self, error: BaseException) -> None:
        """Note what the hook raised, whatever the exception's own code does."""
        with suppress(BaseException):
            text = bounded(described(error), MAX_VALUE)
            self._span.set_status(StatusCode.ERROR, text)
            self._span.set_attribute("error.type", class_name(error))
            frames = traceback.extract_tb(from_plugin(error.__traceback__, self._hook.root), limit=-MAX_FRAMES)
            self._span.add_event(
                "exception",
                {
                    "exception.type": class_name(error),
                    "exception.message": text,
                    "exception.stacktrace": "".join(traceback.format_list(frames)),
                },
            )

    def end(self) -> None:
        """End the span."""
        with suppress(Exception):  # as above
            detach(self._token)
            self._span.end()
