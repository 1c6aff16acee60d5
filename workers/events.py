"""Where the events go that plugins trigger with `TykGateway.trigger_event`: to the broker, which hands them on.

A hook never waits for that. A thread of its own writes to the control socket; what does not fit into its bounded queue
is dropped, and the broker is told how many were.
"""

import logging
from _thread import start_new_thread  # by name: a plugin may replace it before the first event (gevent.monkey)
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Final

from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.errors import ControlClosedError
from tykpy.telemetry.log import Log
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.workers.process.guard import guarded
from tykpy.workers.triggered import TriggeredEvent

log = Log("tykpy.events")
_notices: Final = QuietLog(log)

MAX_WAITING: Final = 10_000
MAX_WAITING_CHARACTERS: Final = 4 * 1024 * 1024
"""What is kept while the broker does not read: events, and characters of their names and payloads."""
MAX_EVENT_CHARACTERS: Final = 256 * 1024
"""One event's name and payload; as JSON it takes up to twelve times as many bytes, which a control message holds."""
FINISH_S: Final = 1.0
"""How long a worker that ends goes on sending what waits; the broker gives it longer."""


class SentEvents:
    """Sends events to the broker. The thread starts with the first of them.

    Takes no lock that a caller could wait for: finalizers trigger events as well, in the middle of anything here.
    """

    def __init__(self, control: ControlSocket) -> None:
        """Send over `control`."""
        self._control = control
        self._queue: SimpleQueue[TriggeredEvent | None] = SimpleQueue()
        """None wakes the thread."""
        self._waiting = 0
        """Characters in the queue; callers that race may get it wrong, until the queue is empty."""
        self._lost = 0
        self._finishing = False
        self._starting = Lock()
        """Held by the caller who has started the thread."""
        self._ended: SimpleQueue[None] = SimpleQueue()

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
        if self._has_room(size):
            self._waiting += size
            self._queue.put(event)
        else:
            self._lost += 1
            if self._queue.empty():
                self._queue.put(None)
        self._start()

    def finish(self) -> None:
        """Send what waits, for a limited time; no event is taken any more."""
        self._finishing = True
        if self._starting.locked():
            self._queue.put(None)
            with suppress(Empty):
                self._ended.get(timeout=FINISH_S)

    def _has_room(self, size: int) -> bool:
        fits = self._queue.qsize() < MAX_WAITING and self._waiting + size <= MAX_WAITING_CHARACTERS
        return fits and size <= MAX_EVENT_CHARACTERS and not self._finishing

    def _start(self) -> None:
        if not self._finishing and self._starting.acquire(blocking=False):
            try:
                start_new_thread(guarded, (self._run,))
            except RuntimeError:  # no thread to be had: the next event tries again
                self._starting.release()

    def _run(self) -> None:
        try:
            while not (self._finishing and self._queue.empty()):
                self._send(self._queue.get())
        except ControlClosedError:
            # The broker is gone, and this process with it.
            log.debug("the broker is gone; events that wait are lost")
        self._ended.put(None)

    def _send(self, event: TriggeredEvent | None) -> None:
        if event is not None:
            self._waiting = 0 if self._queue.empty() else self._waiting - len(event.name) - len(event.payload)
            self._control.send("event", event.message())
        lost, self._lost = self._lost, 0
        if lost:
            self._control.send("events_lost", {"count": lost})
