"""What a log record says of the hook that runs where it is made. Nothing here is computed before there is a record."""

import sys
from typing import Any, Final

from tyk.call import RUNNING, Call, find
from tykpy.bundles.imports.importer import space_of
from tykpy.ipc.clock import monotonic_ns
from tykpy.telemetry.records import NO_FIELDS, Fields, shorten
from tykpy.workers.dispatch.trace import HOOK_SPANS

MAX_FIELD: Final = 256
"""Longest value that comes from a client, in characters."""
_NS_PER_MS: Final = 1_000_000


def running_fields() -> Fields:
    """Return the fields of the running hook; outside of hooks, those of the bundle whose code is on the stack."""
    try:
        call, running = find(), RUNNING.get()
        if call is not None and running is not None:
            return hook_fields(call, running[2]) | _span_fields()
        space = space_of(sys._getframe(1))
        return NO_FIELDS if space is None else {"bundle": space.bundle}
    except Exception:  # noqa: BLE001 (the record matters more, and a plugin may have put anything into its event)
        return NO_FIELDS


def hook_fields(call: Call, started: int) -> dict[str, Any]:
    """Return the fields of a call whose hook runs since `started` (monotonic ns)."""
    found: dict[str, Any] = {"bundle": call.bundle, "hook": call.hook, "type": call.hook_type}
    texts = {"api_id": call.api_id, "request_id": call.request_id}
    found |= {name: shorten(text, MAX_FIELD) for name, text in texts.items() if text}
    if call.trace_id:
        found["trace_id"], found["span_id"] = call.trace_id, call.span_id
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
