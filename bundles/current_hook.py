"""What runs here now: the hook that a call of `TykGateway` out of plugin code belongs to, and its `async def` call.

Context variables, so threads, `async def` hooks and what these start each see their own.
"""

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tykpy.bundles.hook import Hook

RUNNING: Final[ContextVar[tuple["Hook", Any] | None]] = ContextVar("RUNNING", default=None)
"""The hook and the object or event it was called for; None outside of hooks."""


class AsyncCall:
    """A call on the event loop, which may have to end before its hook does."""

    __slots__ = ("ended_by", "is_expired", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_expired = False
        """Its deadline passed: no hook of it runs any more."""
        self.ended_by: BaseException | None = None
        """What a task that the running hook started has raised."""

    def expire(self) -> None:
        """End it because its deadline passed."""
        self.is_expired = True
        self._cancel()

    def fail(self, error: BaseException) -> None:
        """Fail the hook that runs with the error of one of its tasks."""
        self.ended_by = error
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Its task is to be cancelled, and perhaps does not know yet."""
        return self.task is not None and self.task.cancelling() > 0

    def cause_of(self, error: BaseException) -> BaseException:
        """Return what made the hook fail that raised `error`. Raises it where that is the deadline."""
        if self.is_expired and isinstance(error, asyncio.CancelledError):
            raise error
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()
        ended_by, self.ended_by = self.ended_by, None
        return error if ended_by is None else ended_by


_NO_CALL: Final = AsyncCall()
ASYNC_CALL: Final[ContextVar[AsyncCall]] = ContextVar("ASYNC_CALL", default=_NO_CALL)
"""The call on the event loop. Tasks that a hook starts have the one of their hook."""
