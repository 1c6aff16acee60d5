"""The trace of the running dispatch, as the code that runs hooks sees it; `workers.tracing` makes its spans.

It imports nothing of OpenTelemetry, which may not be installed.
"""

from contextvars import ContextVar
from typing import Final, Protocol

from tykpy.bundles.hook import Hook


class HookSpan(Protocol):
    """The span of a hook that runs. It is the current span, also for libraries that trace by themselves."""

    def fail(self, error: BaseException) -> None:
        """Note what the hook raised."""

    def end(self) -> None:
        """End it. It stays the current one until the next hook begins, or the dispatch ends."""


class HookSpans(Protocol):
    """Makes the spans of the hooks of one dispatch."""

    def begin(self, hook: Hook) -> HookSpan | None:
        """Begin the span of a hook, in the context that it runs in; None if that fails."""


class CallSpans(Protocol):
    """Sets `HOOK_SPANS` for each dispatch that is traced."""

    def enter(self, trace: dict[str, str]) -> None:
        """Begin a dispatch with the trace of its frame, in a context that no other dispatch has."""


HOOK_SPANS: Final[ContextVar[HookSpans | None]] = ContextVar("HOOK_SPANS", default=None)
"""Makes the spans of the running dispatch; None if it is not traced. Async hooks and tasks inherit it."""
