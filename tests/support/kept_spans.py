"""Spans of a process without export: a test reads them after they have ended, as a collector would."""

from collections.abc import Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tests.support.peers.collector import Collector, ReceivedSpan
from tykpy.telemetry.spans import BatchExporter, SpanBatch, SpanExport, TraceIds, max_text, origin_of, span_limits


class _Decoder(SpanExporter):
    """Gives a collector the request that would be sent."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert isinstance(spans, SpanBatch)
        self._collector.add(spans.encode().SerializeToString())
        return SpanExportResult.SUCCESS


class KeptSpans(SpanExport):
    """Keeps spans in memory."""

    def __init__(self, sampler: Sampler) -> None:
        self.ids = TraceIds()
        self._limits = span_limits()
        self._collector = Collector()
        self._scope = InstrumentationScope("test")
        resource = Resource({"service.name": "test"})
        self._provider = TracerProvider(
            sampler, resource, id_generator=self.ids, span_limits=self._limits, shutdown_on_exit=False
        )
        exporter = BatchExporter(_Decoder(self._collector), origin_of(resource, self._scope))
        self._processor = SimpleSpanProcessor(exporter)  # type: ignore[assignment]
        self._provider.add_span_processor(self._processor)
        self.tracer = self._provider.get_tracer("test")
        self.max_text = max_text(self._limits)

    @property
    def ended(self) -> list[ReceivedSpan]:
        """All spans that have ended."""
        return self._collector.spans

    def close(self) -> None:
        """Stop keeping spans."""
        self._provider.shutdown()
