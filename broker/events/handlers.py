"""Runs the pool's `@Event` handlers for the events that plugins trigger.

A caller of the router like a gateway's connection, with limits of its own: events must not crowd out requests, and a
handler that triggers the event it handles must come to an end.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from tykpy.broker.errors import DispatchError
from tykpy.broker.protowire import pack_bytes
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.router import Router
from tykpy.ipc.frame import Kind, Status
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.events")

MAX_IN_FLIGHT: Final = 1_000
"""Most events that wait for a handler or run; further ones are dropped."""
MAX_DEPTH: Final = 5
"""Number of handlers in a chain of events after which no further handler runs."""
_PAYLOAD: Final = 1
"""Field number of `coprocess.Event.payload`."""
_NO_ROOM: Final = frozenset({Status.OVERLOADED, Status.UNAVAILABLE, Status.EXPIRED})


class EventDispatch(Dispatch):
    """One event on its way to its handlers."""

    __slots__ = ("_outcome",)

    def __init__(self, name: str, document: str, outcome: Callable[[DispatchError | None], None]) -> None:
        super().__init__(Kind.EVENT, pack_bytes(_PAYLOAD, document.encode(errors="replace")))
        self.name = f"event {name}"
        self._outcome = outcome

    def answer(self, kind: int, body: bytes) -> None:
        """Report that the handlers ran."""
        self._outcome(None)

    def fail(self, error: DispatchError) -> None:
        """Report that the handlers failed, or did not run."""
        self._outcome(error)


@dataclass(slots=True)
class HandlerCounters:
    """Counters of what became of the events."""

    handled: int = 0
    failed: int = 0
    """Events whose handler raised or whose worker died."""
    dropped: int = 0
    """Events dropped because too many were in flight or no worker was free in time."""
    looped: int = 0
    """Events deeper than MAX_DEPTH."""
    without_handler: int = 0


class EventHandlers:
    """Dispatches events to the handlers registered for their names."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._counters = HandlerCounters()
        self._in_flight = 0
        self._notices = QuietLog(log)

    def offer(self, name: str, depth: int, document: str) -> bool:
        """Run the handlers of an event if there is room; return False if it has none."""
        if name not in self._router.hooks.event_handlers:
            self._counters.without_handler += 1
            return False
        if depth >= MAX_DEPTH:
            self._counters.looped += 1
            text = f"event {name!r} was triggered by {depth} handlers one after the other; its own do not run again"
            self._notices.log(logging.WARNING, f"loop {name}", text)
        elif self._in_flight >= MAX_IN_FLIGHT:
            self._drop(f"{self._in_flight} events are with their handlers already")
        else:
            self._in_flight += 1
            self._router.dispatch(EventDispatch(name, document, lambda error: self._on_outcome(name, error)))
        return True

    def describe(self) -> dict[str, int]:
        """Return the counters, and how many events are in flight."""
        return {**asdict(self._counters), "under_way": self._in_flight}

    def _on_outcome(self, name: str, error: DispatchError | None) -> None:
        self._in_flight -= 1
        if error is None:
            self._counters.handled += 1
        elif error.status is Status.NOT_FOUND:
            self._router.hooks.forget_handler(name)
            self._counters.without_handler += 1
        elif error.status in _NO_ROOM:
            self._drop(error.message)
        else:
            self._counters.failed += 1
            self._notices.log(logging.ERROR, f"failed {name}", f"event {name!r}: {error.message}")

    def _drop(self, why: str) -> None:
        self._counters.dropped += 1
        self._notices.log(logging.WARNING, "dropped", f"an event is not handled: {why}")
