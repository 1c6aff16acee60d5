"""Log dispatches that have ended: all of them, or those that failed or were slow (`--access-log`)."""

import logging
from typing import Final

from tykpy.broker.codes import GrpcCode
from tykpy.broker.router.deaths import MAX_ATTEMPTS
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_stats import HookStats, type_name
from tykpy.broker.tracing.headers import Header, head_of
from tykpy.broker.tracing.incoming import PARENT, incoming_trace
from tykpy.telemetry.log import Log
from tykpy.telemetry.records import shorten

MAX_NAME: Final = 256
"""Longest name that comes from a client, in characters."""
_NS_PER_S: Final = 1_000_000_000
_NS_PER_US: Final = 1_000
_US_PER_MS: Final = 1_000
_request_id: Final = Header("x-request-id")
_log: Final = Log("tykpy.dispatch")


class AccessLog:
    """Logs the ended dispatches that it is told about."""

    __slots__ = ("_slow_ns",)

    def __init__(self, slow: float) -> None:
        """`slow`: seconds that a dispatch takes at least if it is logged."""
        self._slow_ns = int(slow * _NS_PER_S)

    def note(
        self,
        dispatch: Dispatch,
        stats: HookStats,
        code: int,
        dispatch_ns: int,
        hook_ns: int | None,
        answer: bytes = b"",
        message: str = "",
    ) -> None:
        """Log a dispatch, if it is to be. `hook_ns`: how long its hook ran, None: it was not run."""
        if dispatch_ns < self._slow_ns:
            return
        wait_ns = max(0, dispatch_ns - (hook_ns or 0))
        fields = dispatch_fields(dispatch, stats) | {
            "code": GrpcCode(code).name,
            "duration_ms": _ms(dispatch_ns),
            "queue_ms": _ms(wait_ns),
            "hook_ms": _ms(hook_ns or 0),
            "request_bytes": len(dispatch.body),
            "answer_bytes": len(answer),
            "attempts": 0,
        }
        if dispatch.worker is not None:
            fields["attempts"] = min(1 + dispatch.attempts, MAX_ATTEMPTS) + dispatch.retried
        text = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
        _log.log(logging.INFO if code == GrpcCode.OK else logging.WARNING, "%s", text, fields=fields)


def dispatch_fields(dispatch: Dispatch, stats: HookStats) -> dict[str, object]:
    """Return the fields of a log record about a dispatch, which say what it calls, and where it was sent."""
    fields: dict[str, object] = {
        "bundle": stats.id[0],
        "hook": shorten(dispatch.name, MAX_NAME),
        "type": type_name(dispatch.hook_type),
        "api_id": shorten(dispatch.api_id, MAX_NAME),
    }
    fields |= _ids(dispatch)
    if dispatch.worker is not None:
        fields["worker"] = dispatch.worker
    return fields


def _ids(dispatch: Dispatch) -> dict[str, object]:
    """Return the id of the request, and of the dispatch's span or, if it is not sampled, of its caller's."""
    ids: dict[str, object] = {}
    request_id = _request_id.in_request(dispatch.kind, head_of(dispatch))
    if not request_id and dispatch.metadata is not None:
        request_id = _request_id.in_metadata(dispatch.metadata)
    if request_id:
        ids["request_id"] = shorten(request_id.decode(errors="replace"), MAX_NAME)
    if dispatch.trace is not None:
        parent = dispatch.trace.carrier[PARENT]
    elif incoming := incoming_trace(dispatch):
        parent = incoming.parent
    else:
        return ids
    _, ids["trace_id"], ids["span_id"], _ = parent.split("-")
    return ids


def _ms(ns: int) -> float:
    return ns // _NS_PER_US / _US_PER_MS
