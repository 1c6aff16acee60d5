"""Which dispatches are sampled, and what the sampled ones carry to their workers."""

import pytest
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import TraceState

from tests.support.kept_spans import KeptSpans
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tykpy.broker.codes import GrpcCode
from tykpy.broker.router.hook_table import HookTable
from tykpy.broker.tracing.spans import DispatchSpans
from tykpy.telemetry.spans import MAX_VALUE

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


def begin(spans: DispatchSpans, traceparent: str = "", name: str = "hook") -> RecordedDispatch:
    headers = b"\n\x46\n\x0bTraceparent\x12\x37" + traceparent.encode() if traceparent else b""
    dispatch = RecordedDispatch(object_bytes(name) + b"\x1a" + bytes([len(headers)]) + headers)
    spans.begin(dispatch, HookTable().identify(dispatch))
    return dispatch


@pytest.mark.parametrize("wrap", [ParentBased, lambda sampler: sampler])
def test_a_ratio_of_new_traces_is_sampled(wrap: type[ParentBased]) -> None:
    ratio = TraceIdRatioBased(0.5)
    spans = DispatchSpans(KeptSpans(wrap(ratio)))
    ids = [int(one.trace.trace_id, 16) for one in (begin(spans) for _ in range(200)) if one.trace is not None]
    assert 0 < len(ids) < 200
    assert {one & ratio.TRACE_ID_LIMIT < ratio.bound for one in ids} == {True}


@pytest.mark.parametrize(
    ("sampler", "flags", "sampled"),
    [
        (ParentBased(ALWAYS_ON), "01", True),
        (ParentBased(ALWAYS_ON), "00", False),
        (ParentBased(TraceIdRatioBased(0)), "01", True),
        (TraceIdRatioBased(0), "01", False),
        (ALWAYS_ON, "00", True),
    ],
)
def test_the_caller_decides_if_the_sampler_says_so(sampler: Sampler, flags: str, sampled: bool) -> None:
    assert (begin(DispatchSpans(KeptSpans(sampler)), PARENT + flags).trace is not None) is sampled


class AddingSampler(Sampler):
    """Samples everything, and adds to it, as a sampler of another package may."""

    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"sampled.by": "rule"}, TraceState([("rule", "1")]))

    def get_description(self) -> str:
        return "adding"


def test_a_sampler_of_another_package_is_asked() -> None:
    export = KeptSpans(AddingSampler())
    trace = begin(DispatchSpans(export)).trace
    assert trace is not None
    assert trace.carrier["tracestate"] == "rule=1"
    trace.end(GrpcCode.OK)
    _, dispatch = export.ended
    assert (dispatch.attributes["sampled.by"], dispatch.attributes["tykpy.hook"]) == ("rule", "hook")
    assert dispatch.state == "rule=1"


@pytest.mark.parametrize(("traceparent", "flags"), [("", "03"), (PARENT + "01", "01"), (PARENT + "03", "03")])
def test_the_flag_of_random_ids_is_kept(traceparent: str, flags: str) -> None:
    trace = begin(DispatchSpans(KeptSpans(ALWAYS_ON)), traceparent).trace
    assert trace is not None
    assert trace.carrier["traceparent"].endswith("-" + flags)


@pytest.mark.parametrize(("variable", "longest"), [("", MAX_VALUE), ("5", 5)])
def test_texts_are_cut_as_configured(monkeypatch: pytest.MonkeyPatch, variable: str, longest: int) -> None:
    if variable:
        monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", variable)
    export = KeptSpans(ALWAYS_ON)
    trace = begin(DispatchSpans(export), name="x" * 2000).trace
    assert trace is not None
    trace.end(GrpcCode.INTERNAL, "y" * 2000)
    _, dispatch = export.ended
    assert len(dispatch.attributes["tykpy.hook"]) == len(dispatch.error or "") == longest


def test_a_cancelled_dispatch_is_no_error() -> None:
    export = KeptSpans(ALWAYS_ON)
    trace = begin(DispatchSpans(export), PARENT + "01").trace
    assert trace is not None
    trace.sent(3)
    trace.end(GrpcCode.CANCELLED)
    queue, dispatch = export.ended
    assert (queue.name, dispatch.error) == ("queue", None)
    assert dispatch.attributes["rpc.grpc.status_code"] == GrpcCode.CANCELLED
    assert trace.carrier["traceparent"].split("-")[2] == dispatch.span_id == queue.parent_id
