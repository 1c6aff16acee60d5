"""How the spans of calls are exported: as the SDK would export them, without its objects."""

from typing import Any, Final

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind

from tests.support.kept_spans import KeptSpans
from tykpy.telemetry.spans import EndedCall, SpanBatch, SpanExport, SpanIds, add_span, origin_of, parse_parent
from tykpy.telemetry.tracing import TracingError

PARENT: Final = parse_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", "a=1,b=2")
IDS: Final = SpanIds(PARENT.trace_id, "00f067aa0ba902b7", 1, PARENT.state)
ATTRIBUTES: Final[dict[str, Any]] = {
    "text": "\u00e9", "number": -1, "flag": True, "share": 0.5, "bytes": b"\xff", "list": ("a", "b"), "none": (),
}  # fmt: skip


@pytest.mark.parametrize(("is_server", "is_remote"), [(True, True), (False, False)])
def test_a_call_is_encoded_as_the_sdk_would(is_server: bool, is_remote: bool) -> None:
    resource, scope = Resource({"service.name": "test"}, "https://resource"), InstrumentationScope("tykpy", "1")
    kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
    times = 1_700_000_000_000_000_000, 1_700_000_000_000_000_001
    of_sdk = ReadableSpan(
        "name", IDS.context(is_remote=False), PARENT.context(is_remote=is_remote), resource, ATTRIBUTES,
        kind=kind, start_time=times[0], end_time=times[1], instrumentation_scope=scope,
    )  # fmt: skip

    def write(spans: ScopeSpans) -> None:
        add_span(spans, IDS, PARENT.span_id, "name", times, ATTRIBUTES, is_server=is_server, is_remote=is_remote)

    expected = encode_spans([of_sdk])
    expected.resource_spans[0].scope_spans[0].spans[0].ClearField("status")  # the SDK's says that there is none
    assert SpanBatch([EndedCall(write)], origin_of(resource, scope)).encode() == expected


def test_calls_and_spans_of_the_sdk_are_exported_together() -> None:
    export = KeptSpans(ALWAYS_ON)
    export.add(lambda spans: add_span(spans, IDS, "", "call", (1, 2), {}))
    with export.tracer.start_as_current_span("span"):
        pass
    assert [(span.name, span.resource["service.name"]) for span in export.ended] == [("call", "test"), ("span", "test")]


def test_a_call_that_cannot_be_encoded_costs_no_others() -> None:
    def write(name: str, value: object) -> EndedCall:
        return EndedCall(lambda spans: add_span(spans, IDS, "", name, (1, 2), {"key": value}))

    origin = origin_of(Resource({}), InstrumentationScope("test"))
    calls = [write("first", 1), write("lost", object()), write("lost", "\ud800"), write("last", 2)]
    (group,) = SpanBatch(calls, origin).encode().resource_spans
    assert [span.name for span in group.scope_spans[0].spans] == ["first", "last"]


@pytest.mark.parametrize(
    "header", ["00-" + "0" * 32 + "-b7ad6b7169203331-01", "00-" + "1" * 32 + "-" + "0" * 16 + "-01"]
)
def test_a_parent_of_zeros_is_not_valid(header: str) -> None:
    assert not parse_parent(header).is_valid
    assert PARENT.is_valid


def test_an_exporter_that_encodes_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trace_exporter, "encode_spans")
    with pytest.raises(TracingError, match="too new: pip install"):
        SpanExport("broker")
