"""What a log record says of the hook that runs where it is made. Nothing here is computed before there is a record."""

import re
import sys
from collections.abc import Mapping
from time import monotonic_ns
from typing import Any, Final

from tyk.call import Metadata, current
from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bundles.current_hook import RUNNING
from tykpy.bundles.hook import Hook
from tykpy.bundles.imports.importer import space_of
from tykpy.telemetry.records import NO_FIELDS, Fields, shorten
from tykpy.workers.dispatch.prepare import API_KEY
from tykpy.workers.dispatch.trace import HOOK_SPANS

MAX_FIELD: Final = 256
"""Longest value that comes from a client, in characters."""
REQUEST_ID: Final = "X-Request-Id"
TRACE_PARENT: Final = "Traceparent"
"""Names of headers, as a gateway writes them."""
_TRACE_PARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""
_EVENT: Final = "Event"
_NS_PER_MS: Final = 1_000_000


def running_fields() -> Fields:
    """Return the fields of the running hook; outside of hooks, those of the bundle whose code is on the stack."""
    try:
        running = RUNNING.get()
        if running is not None:
            return hook_fields(*running, current().metadata) | _span_fields()
        space = space_of(sys._getframe(1))
        return NO_FIELDS if space is None else {"bundle": space.bundle}
    except Exception:  # noqa: BLE001 (the record matters more, and a plugin may have put anything into its event)
        return NO_FIELDS


def hook_fields(hook: Hook, subject: Object | TykEvent, started: int, metadata: Metadata) -> dict[str, Any]:
    """Return the fields of a hook that runs since `started` (monotonic ns); `metadata` is that of its call."""
    found: dict[str, Any] = {"bundle": hook.bundle, "hook": hook.name}
    headers: Mapping[str, str] = {}
    if isinstance(subject, Object):
        number, headers = subject.hook_type, subject.request.headers
        found["type"] = HookType.Name(number) if number in HookType.values() else str(number)
    else:
        found["type"] = _EVENT
    texts = {
        "api_id": str(subject.spec.get(API_KEY, "")),
        "request_id": _value_of(REQUEST_ID, headers, metadata),
    }
    found |= {name: shorten(text, MAX_FIELD) for name, text in texts.items() if text}
    if trace := _TRACE_PARENT.fullmatch(_value_of(TRACE_PARENT, metadata, headers)):
        found["trace_id"], found["span_id"] = trace.groups()
    found["duration_ms"] = (monotonic_ns() - started) // (_NS_PER_MS // 1000) / 1000
    return found


def _span_fields() -> dict[str, str]:
    """Return the current span of a dispatch that is traced."""
    if HOOK_SPANS.get() is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    span = get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}


def _value_of(name: str, *places: Mapping[str, Any]) -> str:
    """Return the first value of a header; metadata and some gateways have its name in lower case."""
    for place in places:
        value = place.get(name) or place.get(name.lower())
        if value:
            return str(value)
    return ""
