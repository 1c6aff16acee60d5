"""The trace that a dispatch continues (W3C Trace Context): of its gRPC metadata, else of the request's headers."""

import re
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.tracing.headers import SEARCHED, Header, head_of

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
MAX_STATE: Final = 512
"""Longest `tracestate` that is continued, in characters: the specification's own limit for what has to be."""
_is_valid: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_parent: Final = Header(PARENT)
_state: Final = Header(STATE)

Carrier = dict[str, str]
"""`traceparent` and `tracestate` by name, as a worker gets them."""


class IncomingTrace(NamedTuple):
    """The trace that a dispatch continues."""

    parent: str
    """Its `traceparent`."""
    find_state: Callable[[], bytes]
    """Finds its `tracestate`, which only a sampled dispatch needs."""

    @property
    def state(self) -> str:
        """Its `tracestate`; one that is too long is dropped."""
        state = self.find_state()
        return state.decode() if len(state) <= MAX_STATE and state.isascii() else ""


def incoming_trace(dispatch: Dispatch) -> IncomingTrace | None:
    """Return the trace that a dispatch continues, or None."""
    metadata = dispatch.metadata
    if metadata is not None:
        parent = _parent.in_metadata(metadata)
        if _is_valid(parent):
            return IncomingTrace(parent.decode(), partial(_state.in_metadata, metadata))
    body = dispatch.body
    head = body if type(body) is bytes else head_of(dispatch)
    # Nearly all objects are searched in vain. `rfind` takes half of the time that `find` does (CPython 3.11 to 3.13).
    if head.rfind(b"raceparent", 0, SEARCHED) < 0:
        return None
    parent = _parent.in_request(dispatch.kind, head)
    return (
        IncomingTrace(parent.decode(), partial(_state.in_request, dispatch.kind, head)) if _is_valid(parent) else None
    )
