"""Send the events that plugins trigger with `TykGateway.trigger_event` to the broker, which delivers them.

A hook never waits for this. A separate thread writes to the control socket; events that do not fit into its bounded
queue are dropped, and the broker is told how many. An event travels as a JSON document in the form in which a gateway
sends its events, with one more member, `triggered`.
"""

import json
import logging
import os
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, Final, NamedTuple, NoReturn

from tyk.call import RUNNING
from tyk.event import TRIGGERED_KEY
from tykpy.bundles import forked
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.clock import time_ns
from tykpy.ipc.errors import ControlClosedError
from tykpy.telemetry.log import Log
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.workers.process.guard import start_thread

log = Log("tykpy.events")
_notices: Final = QuietLog(log)

MAX_WAITING: Final = 10_000
MAX_WAITING_CHARACTERS: Final = 4 * 1024 * 1024
"""Events that wait while the broker does not read, and characters of their names and payloads."""
MAX_EVENT_CHARACTERS: Final = 256 * 1024
"""Characters of one event's name and payload. As JSON up to twelve times as many bytes, a control message's size."""
FINISH_S: Final = 1.0
"""How long a worker that ends waits for the broker to take one of its events."""
CARRIED_SPEC: Final = ("APIID", "OrgID", "bundle_hash")
"""The keys of the triggering hook's spec that an event carries."""
MAX_SPEC_CHARACTERS: Final = 1_024
"""Longest spec value that is carried whole, in characters (real ones have 32)."""
MAX_DEPTH: Final = 1_000
"""An event whose depth is larger (a gateway's event may contain anything) counts as this deep. The broker's limit is
lower."""

_ID_BYTES: Final = 12
_NS_PER_S: Final = 1_000_000_000


class OutgoingEvent(NamedTuple):
    """One event; its document is made later, in the sending thread."""

    name: str
    payload: str
    time_ns: int
    """When it was triggered, in ns since 1970."""
    bundle: str
    """The bundle of the hook that triggered it; empty if no hook did."""
    spec: dict[str, str]
    depth: int
    """Number of handlers of triggered events that led to it."""

    @classmethod
    def here(cls, name: str, payload: str) -> "OutgoingEvent":
        """Make an event whose origin is the hook that runs here."""
        running = RUNNING.get()
        if running is None:
            return cls(name, payload, time_ns(), "", {}, 0)
        hook, subject = running[:2]
        spec = {key: str(subject.spec[key])[:MAX_SPEC_CHARACTERS] for key in CARRIED_SPEC if key in subject.spec}
        return cls(name, payload, time_ns(), hook.bundle, spec, _depth_below(subject))

    def message(self) -> dict[str, Any]:
        """Return the control message: the document, and the parts of it that the broker reads without decoding it."""
        identity = os.urandom(_ID_BYTES).hex()
        document = {
            "message": {"Type": self.name, "Meta": _meta(self.payload), "TimeStamp": go_time(self.time_ns)},
            "handler_name": self.name,
            "spec": self.spec,
            TRIGGERED_KEY: {"id": identity, "bundle": self.bundle, "depth": self.depth},
        }
        return {"name": self.name, "id": identity, "depth": self.depth, "document": json.dumps(document)}


class SentEvents:
    """Sends events to the broker; its thread starts with the first event.

    It takes no lock that a caller could wait for: finalizers trigger events too, in the middle of any method here.
    """

    def __init__(self, control: ControlSocket) -> None:
        """Send over `control`."""
        self._control = control
        self._queue: SimpleQueue[OutgoingEvent | None] = SimpleQueue()
        """Events to send; None only wakes the thread."""
        self._waiting = 0
        """Characters in the queue. Racing callers may make it wrong; it is reset when the queue is empty."""
        self._lost = 0
        self._finishing = False
        self._starting = Lock()
        """Locked for good by whoever starts the thread."""
        self._ended: SimpleQueue[None] = SimpleQueue()

    def trigger(self, name: str, payload: str) -> None:
        """Queue an event, or count it as lost if there is no room. Raises TypeError if the name is not a str.

        A forked child sends nothing: its descriptors are closed, and their numbers may be other files'.
        """
        if not isinstance(name, str):
            raise TypeError(f"an event's name is a str, not {type(name).__name__}")
        # Half of a surrogate pair cannot be encoded as UTF-8.
        event = OutgoingEvent.here(name.encode(errors="replace").decode(), payload)
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
        """Send waiting events, as long as the broker takes one every FINISH_S seconds, and accept no more."""
        self._finishing = True
        if not self._starting.locked():
            return
        self._queue.put(None)
        waiting = self._queue.qsize() + 1
        while (left := self._queue.qsize()) < waiting:
            waiting = left
            with suppress(Empty):
                self._ended.get(timeout=FINISH_S)
                break

    def _has_room(self, size: int) -> bool:
        fits = self._queue.qsize() < MAX_WAITING and self._waiting + size <= MAX_WAITING_CHARACTERS
        return fits and size <= MAX_EVENT_CHARACTERS and not self._finishing

    def _start(self) -> None:
        if not (self._finishing or forked.is_child) and self._starting.acquire(blocking=False):
            try:
                start_thread("events", self._run)
            except RuntimeError:  # out of threads: the next event tries again
                self._starting.release()

    def _run(self) -> None:
        try:
            while not self._finishing:
                self._send(self._queue.get())
            if not self._queue.empty():
                # The broker gives this worker more time to end.
                self._control.send("stopping")
            while not self._queue.empty():
                self._send(self._queue.get())
        except ControlClosedError:
            # The broker is gone, and this process is about to end.
            log.debug("the broker is gone; events that wait are lost")
        self._ended.put(None)

    def _send(self, event: OutgoingEvent | None) -> None:
        if event is not None:
            self._waiting = 0 if self._queue.empty() else self._waiting - len(event.name) - len(event.payload)
            self._control.send("event", event.message())
        lost, self._lost = self._lost, 0
        if lost:
            self._control.send("events_lost", {"count": lost})


def go_time(time_ns: int) -> str:
    """Format a time as Go prints it, and as a gateway's events have it."""
    seconds, nanoseconds = divmod(time_ns, _NS_PER_S)
    return time.strftime(f"%Y-%m-%d %H:%M:%S.{nanoseconds:09d} +0000 UTC", time.gmtime(seconds))


def _depth_below(subject: Any) -> int:
    """Return the depth of an event triggered while `subject` is handled: 0 for an object."""
    origin = subject.get(TRIGGERED_KEY) if isinstance(subject, dict) else None
    depth = origin.get("depth") if isinstance(origin, dict) else None
    return min(depth, MAX_DEPTH) + 1 if isinstance(depth, int) and depth >= 0 else 0


def _meta(payload: str) -> Any:
    """Return the payload as `Meta`: a JSON object or list decoded, anything else as text."""
    if not payload.lstrip().startswith(("{", "[")):
        return payload
    try:
        return json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return payload


def _refuse_constant(name: str) -> NoReturn:
    # Only Python reads and writes NaN and Infinity.
    raise ValueError(f"{name} is not JSON")
