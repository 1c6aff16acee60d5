"""Delivery of events to a target that may be slow or down: a bounded queue, one thread, retries with back-off.

Events are delivered at least once and in order; only the thread talks to the target.
"""

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final, Protocol

from tykpy.broker.errors import BrokerError
from tykpy.broker.events.event import ReceivedEvent
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.records import counted

log = logging.getLogger("tykpy.events")

MIB: Final = 1024 * 1024
MAX_WAITING_BYTES: Final = 64 * MIB
"""Bytes of documents in one queue, whatever their number."""


class DeliveryVerdict(Enum):
    """What to do with events that could not be delivered."""

    AWAY = "away"
    """The target cannot be reached: try until it can."""
    FAILED = "failed"
    """The target did not take them this time: try a few more times."""
    REFUSED = "refused"
    """The target will never take them: give up."""


class DeliveryError(BrokerError):
    """Events were not delivered; the message says why, without secrets."""

    def __init__(self, verdict: DeliveryVerdict, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


class DeliveryTarget(Protocol):
    """A destination of events, used by one thread only."""

    name: str
    """The target's name in `tykpy status`."""
    display: str
    """The target's name in the log."""
    batch: int
    """Most events in one `deliver`."""

    def deliver(self, events: Sequence[ReceivedEvent]) -> None:
        """Deliver all events within a limited time, or raise DeliveryError."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """Options of a delivery; times in seconds."""

    queue_size: int
    first_delay: float = 0.25
    longest_delay: float = 30.0
    max_attempts: int = 8
    """Attempts before an event that FAILED is given up; about half a minute with the delays above."""


def backoff(options: DeliveryOptions) -> Iterator[float]:
    """Yield the longest delay before each retry in seconds: doubled every time, up to a limit."""
    delay = options.first_delay
    while True:
        yield delay
        delay = min(delay * 2, options.longest_delay)


@dataclass(slots=True)
class DeliveryCounters:
    """Counters of what became of the events; `waiting` ones are queued or being delivered."""

    delivered: int = 0
    retries: int = 0
    given_up: int = 0
    """Events refused, or failed too often."""
    dropped: int = 0
    """Events dropped because the queue was full or the broker stopped."""
    waiting: int = 0


class Delivery:
    """A sink with a queue and a thread that starts with the first event."""

    def __init__(self, target: DeliveryTarget, options: DeliveryOptions) -> None:
        self.name = target.name
        self._target = target
        self._options = options
        self._changed = threading.Condition()
        self._queue: deque[ReceivedEvent] = deque()
        self._bytes = 0
        self._counters = DeliveryCounters()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self._drops = QuietLog(log)
        self._failures = QuietLog(log)

    # On the broker's event loop

    def offer(self, event: ReceivedEvent) -> None:
        """Queue the event, or count it as dropped."""
        with self._changed:
            size = len(event.document)
            full = self._counters.waiting >= self._options.queue_size or self._bytes + size > MAX_WAITING_BYTES
            if full or self._closing.is_set():
                self._counters.dropped += 1
            else:
                self._queue.append(event)
                self._bytes += size
                self._counters.waiting += 1
                self._start()
                self._changed.notify()
        if full:
            waiting = (
                f"{counted(self._counters.waiting, 'event waits', 'events wait')} for {self._target.display} already"
            )
            self._drops.log(logging.WARNING, "full", f"an event is dropped: {waiting} (--event-queue)")

    def describe(self) -> dict[str, int]:
        """Return the counters."""
        with self._changed:
            return asdict(self._counters)

    async def close(self, grace: float) -> None:
        """Deliver waiting events within `grace` seconds; after that the thread ends as soon as it can."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        thread = self._thread
        if thread is None:
            return
        await asyncio.to_thread(thread.join, grace)
        self._abandoned.set()
        with self._changed:
            left = self._counters.waiting
        if left:
            what = counted(left, "event was", "events were")
            log.warning("%s not delivered to %s within --event-grace", what, self._target.display)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"events-{self.name}", daemon=True)
            self._thread.start()

    # In the thread

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._count(len(batch), delivered=self._deliver(batch))
        finally:
            self._target.close()

    def _take(self) -> list[ReceivedEvent]:
        """Wait for events; return none if there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing.is_set())
            if self._abandoned.is_set():
                return []
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._target.batch))]
            self._bytes -= sum(len(event.document) for event in batch)
            return batch

    def _deliver(self, batch: list[ReceivedEvent]) -> bool:
        delays, attempts = backoff(self._options), 0
        while True:
            try:
                self._target.deliver(batch)
            except DeliveryError as error:
                attempts += error.verdict is not DeliveryVerdict.AWAY
                if error.verdict is DeliveryVerdict.REFUSED or attempts >= self._options.max_attempts:
                    self._complain(logging.ERROR, f"{counted(len(batch), 'event is', 'events are')} given up: {error}")
                    return False
                self._complain(logging.WARNING, f"{error}; trying again")
            except Exception:
                # The catch-all of this thread: it and the events behind these go on.
                log.exception("%s given up for a fault of tykpy itself", counted(len(batch), "event is", "events are"))
                return False
            else:
                if self._failures.forget(self._target.name):
                    log.warning("%s takes events again", self._target.display)
                return True
            if not self._pause(next(delays)):
                return False

    def _pause(self, delay: float) -> bool:
        """Wait before the next attempt, not for long while the broker stops; return False if there is to be none."""
        with self._changed:
            self._counters.retries += 1
        self._closing.wait(delay * random.uniform(0.5, 1.0))
        last_delay = self._options.first_delay if self._closing.is_set() else 0.0
        return not self._abandoned.wait(last_delay)

    def _count(self, count: int, *, delivered: bool) -> None:
        with self._changed:
            self._counters.waiting -= count
            if delivered:
                self._counters.delivered += count
            elif self._abandoned.is_set():
                self._counters.dropped += count
            else:
                self._counters.given_up += count

    def _complain(self, level: int, message: str) -> None:
        self._failures.log(level, self._target.name, f"{self._target.display}: {message}")
