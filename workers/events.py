"""Where the events go that plugins trigger with `TykGateway.trigger_event`: to the broker, which hands them on.

A hook never waits for that. A thread of its own writes to the control socket; what does not fit into its bounded queue
is dropped, and the broker is told how many were.
"""

import logging
import threading
from collections import deque
from typing import Final, NamedTuple

from ipc.control import ControlSocket
from ipc.errors import ControlClosedError
from telemetry.log import Log
from telemetry.quiet_log import QuietLog
from workers.triggered import TriggeredEvent

log = Log("tykpy.events")
_notices: Final = QuietLog(log)

MAX_WAITING: Final = 10_000
MAX_WAITING_CHARACTERS: Final = 4 * 1024 * 1024
"""What is kept while the broker does not read: events, and characters of their names and payloads."""
MAX_EVENT_CHARACTERS: Final = 256 * 1024
"""One event's name and payload; as JSON it takes up to twelve times as many bytes, which a control message holds."""
FINISH_S: Final = 1.0
"""How long a worker that ends goes on sending what waits; the broker gives it longer."""


class _Taken(NamedTuple):
    """What the sending thread is to send next."""

    events: tuple[TriggeredEvent, ...]
    lost: int


class SentEvents:
    """Sends events to the broker. The thread starts with the first of them."""

    def __init__(self, control: ControlSocket) -> None:
        """Send over `control`."""
        self._control = control
        # Reentrant: a finalizer of a plugin's object may trigger an event while this very thread is within.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[TriggeredEvent] = deque()
        self._waiting = 0
        self._lost = 0
        self._finishing = False
        self._thread: threading.Thread | None = None

    def trigger(self, name: str, payload: str) -> None:
        """Queue one event, or count it as lost where there is no room. Raises TypeError for a name of a wrong type."""
        if not isinstance(name, str):
            raise TypeError(f"an event's name is a str, not {type(name).__name__}")
        # What cannot be UTF-8 (half of a surrogate pair) could not be told to anybody.
        event = TriggeredEvent.here(name.encode(errors="replace").decode(), payload)
        size = len(name) + len(payload)
        if size > MAX_EVENT_CHARACTERS:
            text = f"an event of {size} characters is dropped, the limit is {MAX_EVENT_CHARACTERS}"
            _notices.log(logging.ERROR, "large", text)
        with self._changed:
            if not self._has_room(size):
                self._lost += 1
            else:
                self._queue.append(event)
                self._waiting += size
            self._start()
            self._changed.notify()

    def finish(self) -> None:
        """Send what waits, for a limited time; no event is taken any more."""
        with self._changed:
            self._finishing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(FINISH_S)

    def _has_room(self, size: int) -> bool:
        fits = len(self._queue) < MAX_WAITING and self._waiting + size <= MAX_WAITING_CHARACTERS
        return fits and size <= MAX_EVENT_CHARACTERS and not self._finishing

    def _start(self) -> None:
        if self._thread is None and not self._finishing:
            self._thread = threading.Thread(target=self._run, name="events", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                for event in taken.events:
                    self._control.send("event", event.message())
                if taken.lost:
                    self._control.send("events_lost", {"count": taken.lost})
        except ControlClosedError:
            # The broker is gone, and this process with it.
            log.debug("the broker is gone; events that wait are lost")

    def _take(self) -> _Taken | None:
        """Wait for something to send; None when all is sent and no more will come."""
        with self._changed:
            while not self._queue and not self._lost:
                if self._finishing:
                    return None
                self._changed.wait()
            taken = _Taken(tuple(self._queue), self._lost)
            self._queue.clear()
            self._waiting = self._lost = 0
            return taken
