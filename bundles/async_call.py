"""A call of `async def` hooks, on the event loop of a worker."""

import asyncio
from contextvars import ContextVar
from typing import Final


class AsyncCall:
    """A call on the event loop. It can be ended while its hook runs."""

    __slots__ = ("ended_by", "is_expired", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_expired = False
        """Its deadline passed, and no hook of it goes on."""
        self.ended_by: BaseException | None = None
        """The exception of a task that the running hook has started."""

    def expire(self) -> None:
        """End the call because its deadline passed."""
        self.is_expired = True
        self._cancel()

    def fail(self, error: BaseException) -> None:
        """Fail the running hook with the error of one of its tasks."""
        self.ended_by = error
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether cancellation of its task has been requested; the task may not have seen it yet."""
        return self.task is not None and self.task.cancelling() > 0

    def cause_of(self, error: BaseException) -> BaseException:
        """Return why the hook that raised `error` failed. Raises `error` again if the deadline passed."""
        if self.is_expired and issubclass(type(error), asyncio.CancelledError):
            raise error
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()
        ended_by, self.ended_by = self.ended_by, None
        return error if ended_by is None else ended_by


STARTED: Final[ContextVar[str]] = ContextVar("STARTED", default="")
"""The bundle whose `on_start` or `on_stop` function runs, or has started this task."""
_NO_CALL: Final = AsyncCall()
ASYNC_CALL: Final[ContextVar[AsyncCall]] = ContextVar("ASYNC_CALL", default=_NO_CALL)
"""The call on the event loop. Tasks that a hook starts inherit it."""
