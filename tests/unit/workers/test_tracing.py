"""The span of a hook, which is only as much as is asked of it."""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from tests.support.kept_spans import KeptSpans
from tykpy.telemetry.spans import parse_parent
from tykpy.workers.tracing import LazyHookSpan

PARENT: Final = parse_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1")
HOOK: Final[Any] = SimpleNamespace(bundle="demo", name="hook", definition=SimpleNamespace(hook_type="Pre"))
OWN: Final = {"tykpy.bundle": "demo", "tykpy.hook": "hook", "tykpy.hook_type": "Pre", "tykpy.worker": 3}


@pytest.fixture
def export() -> Iterator[KeptSpans]:
    export = KeptSpans(ALWAYS_ON)
    yield export
    export.kept.shutdown()


def ended(export: KeptSpans) -> ReadableSpan:
    (span,) = export.kept.get_finished_spans()
    return span


def test_a_span_is_exported_at_its_end(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    assert span.is_recording()
    span.end()
    span.end()
    assert not span.is_recording()
    made = ended(export)
    assert (made.name, made.context, made.parent, made.attributes) == ("hook hook", span.context, PARENT, OWN)
    assert (span.context.trace_id, span.context.trace_state) == (PARENT.trace_id, PARENT.trace_state)
    assert 0 < (made.start_time or 0) <= (made.end_time or 0)


def test_what_a_plugin_adds_is_exported_with_it(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    span.set_attribute("user", "x" * 2000)
    span.set_attributes({"user.age": 7})
    span.add_event("cached", {"key": "value"})
    span.add_link(PARENT)
    span.record_exception(ValueError("no"))
    span.set_status(trace.StatusCode.ERROR, "failed")
    span.update_name("renamed")
    span.end()
    made = ended(export)
    assert made.attributes == {**OWN, "user": "x" * 1024, "user.age": 7}
    assert [event.name for event in made.events] == ["cached", "exception"]
    assert [link.context for link in made.links] == [PARENT]
    assert (made.name, made.status.description) == ("renamed", "failed")
    assert (made.context, made.parent) == (span.context, PARENT)


def test_libraries_may_read_what_spans_of_the_sdk_have(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    assert (span.name, span.attributes, span.parent) == ("hook hook", OWN, PARENT)
    assert not hasattr(span, "_other")
    span.end()
    assert ended(export).attributes == OWN


def test_a_hook_of_any_name_can_be_exported(export: KeptSpans) -> None:
    """A name that cannot be encoded would cost all spans of a batch."""
    hook: Any = SimpleNamespace(**vars(HOOK) | {"name": "\ud800" + "x" * 2000})
    LazyHookSpan(export, hook, 3, PARENT).end()
    made = ended(export)
    assert made.name.encode().startswith(b"hook \\ud800x")
    assert len(str((made.attributes or {})["tykpy.hook"])) == 1024


def test_spans_made_in_a_hook_nest_below_it(export: KeptSpans) -> None:
    span = LazyHookSpan(export, HOOK, 3, PARENT)
    with trace.use_span(span), export.tracer.start_as_current_span("inner"):
        pass
    assert ended(export).parent == span.context


def test_every_method_of_a_span_is_implemented() -> None:
    """A method that the API adds would do nothing."""
    methods = {name for name, _ in inspect.getmembers(trace.Span, inspect.isfunction) if not name.startswith("_")}
    assert methods <= vars(LazyHookSpan).keys()
