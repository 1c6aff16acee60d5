"""Which hook runs here now: what a call of `TykGateway` out of plugin code belongs to.

A context variable, so threads, `async def` hooks and what these start each see their own.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from workers.hook import Hook

RUNNING: Final[ContextVar[tuple["Hook", Any] | None]] = ContextVar("RUNNING", default=None)
"""The hook and the object or event it was called for; None outside of hooks."""
