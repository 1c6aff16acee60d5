"""Spans of a process without export: a test reads them after they have ended."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tykpy.telemetry.spans import CallExporter, SpanExport, TraceIds, max_text, span_limits


class KeptSpans(SpanExport):
    """Keeps spans in memory."""

    def __init__(self, sampler: Sampler) -> None:
        self.ids = TraceIds()
        self._limits = span_limits()
        self.kept = InMemorySpanExporter()
        self._provider = TracerProvider(
            sampler, id_generator=self.ids, span_limits=self._limits, shutdown_on_exit=False
        )
        self._processor = SimpleSpanProcessor(CallExporter(self.kept))  # type: ignore[assignment]
        self._provider.add_span_processor(self._processor)
        self.tracer = self._provider.get_tracer("test")
        self._scope = InstrumentationScope("test")
        self.max_text = max_text(self._limits)
