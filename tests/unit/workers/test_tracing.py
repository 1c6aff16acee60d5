"""The span of a hook, which is only as much as is asked of it."""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from tests.support.kept_spans import KeptSpans
from tests.support.peers.collector import ReceivedSpan
from tykpy.telemetry.spans import parse_parent
from tykpy.workers.tracing import LazyHookSpan

PARENT: Final = parse_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1")
HOOK: Final[Any] = SimpleNamespace(bundle="demo", name="hook", definition=SimpleNamespace(hook_type="Pre"))
OWN: Final = {"tykpy.bundle": "demo", "tykpy.hook": "hook", "tykpy.hook_type": "Pre", "tykpy.worker": 3}


@pytest.fixture
def export() -> Iterator[KeptSpans]:
    export = KeptSpans(ALWAYS_ON)
    yield export
    export.close()


def ended(export: KeptSpans) -> ReceivedSpan:
    (span,) = export.ended
    return span


def ids_of(span: LazyHookSpan) -> tuple[str, str]:
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def test_a_span_is_exported_at_its_end(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    assert span.is_recording()
    span.end()
    span.end()
    assert not span.is_recording()
    made = ended(export)
    assert (made.name, made.parent_id, made.attributes) == ("hook hook", PARENT.span_id, OWN)
    assert (made.trace_id, made.span_id) == ids_of(span)
    assert (made.trace_id, made.state) == (PARENT.trace_id, PARENT.state)
    assert span.get_span_context().trace_state.to_header() == PARENT.state
    assert 0 < made.start_ns <= made.end_ns


def test_what_a_plugin_adds_is_exported_with_it(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    span.set_attribute("user", "x" * 2000)
    span.set_attributes({"user.age": 7})
    span.add_event("cached", {"key": "value"})
    span.add_link(PARENT.context(is_remote=True))
    span.record_exception(ValueError("no"))
    span.set_status(trace.StatusCode.ERROR, "failed")
    span.update_name("renamed")
    span.end()
    made = ended(export)
    assert made.attributes == {**OWN, "user": "x" * 1024, "user.age": 7}
    assert [*made.events] == ["cached", "exception"]
    assert made.links == [PARENT.span_id]
    assert (made.name, made.error) == ("renamed", "failed")
    assert (made.trace_id, made.span_id, made.parent_id) == (*ids_of(span), PARENT.span_id)


def test_libraries_may_read_what_spans_of_the_sdk_have(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    assert (span.name, span.attributes, span.parent) == ("hook hook", OWN, PARENT.context(is_remote=True))
    assert span.context is span.get_span_context()
    assert not hasattr(span, "_other")
    span.end()
    assert ended(export).attributes == OWN


def test_a_hook_of_any_name_can_be_exported(export: KeptSpans) -> None:
    """A name that cannot be encoded would cost all spans of a batch."""
    hook: Any = SimpleNamespace(**vars(HOOK) | {"name": "\ud800" + "x" * 2000})
    LazyHookSpan(export, hook, 3, PARENT).end()
    made = ended(export)
    assert made.name.startswith("hook \\ud800x")
    assert len(made.attributes["tykpy.hook"]) == 1024


def test_spans_made_in_a_hook_nest_below_it(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    with trace.use_span(span), export.tracer.start_as_current_span("inner"):
        pass
    assert ended(export).parent_id == ids_of(span)[1]


def test_every_method_of_a_span_is_implemented() -> None:
    """A method that the API adds would do nothing."""
    methods = {name for name, _ in inspect.getmembers(trace.Span, inspect.isfunction) if not name.startswith("_")}
    assert methods <= vars(LazyHookSpan).keys()
