"""Delivery of events to somewhere that may be slow, or away: a bounded queue, one thread, retries with back-off.

Events arrive at least once and in their order; the thread is the only one that talks to the target.
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

log = logging.getLogger("tykpy.events")

MIB: Final = 1024 * 1024
MAX_WAITING_BYTES: Final = 64 * MIB
"""Documents in one queue, whatever their number."""


class DeliveryVerdict(Enum):
    """What is to become of events that could not be delivered."""

    AWAY = "away"
    """The target cannot be reached: try until it can be."""
    FAILED = "failed"
    """It did not take them this time: try a few times more."""
    REFUSED = "refused"
    """It will not take them: give up."""


class DeliveryError(BrokerError):
    """Events were not delivered; the message says why, without secrets."""

    def __init__(self, verdict: DeliveryVerdict, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


class DeliveryTarget(Protocol):
    """Where events are delivered to, by one thread."""

    name: str
    """What `tykpy status` calls it."""
    display: str
    """What the log calls it."""
    batch: int
    """Most events at a time."""

    def deliver(self, events: Sequence[ReceivedEvent]) -> None:
        """Deliver all of them, or raise DeliveryError; a limited time each."""

    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """Times in seconds."""

    queue_size: int
    first_delay: float = 0.25
    longest_delay: float = 30.0
    max_attempts: int = 8
    """Of events that FAILED; with the delays above about half a minute."""


def backoff(options: DeliveryOptions) -> Iterator[float]:
    """The longest that each try waits after the one before, in seconds: twice as long every time, up to a limit."""
    delay = options.first_delay
    while True:
        yield delay
        delay = min(delay * 2, options.longest_delay)


@dataclass(slots=True)
class DeliveryCounters:
    """What became of the events; `waiting` ones are in the queue or being tried."""

    delivered: int = 0
    retries: int = 0
    given_up: int = 0
    """Refused, or failed too often."""
    dropped: int = 0
    """The queue was full, or the broker ended first."""
    waiting: int = 0


class Delivery:
    """A sink with a queue and a thread, which starts with the first event."""

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

    # -- on the broker's loop ---

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
            waiting = f"{self._counters.waiting} events wait for {self._target.display} already (--event-queue)"
            self._drops.log(logging.WARNING, "full", f"an event is dropped: {waiting}")

    def describe(self) -> dict[str, int]:
        """The counters."""
        with self._changed:
            return asdict(self._counters)

    async def close(self, grace: float) -> None:
        """Deliver what waits within `grace` seconds; the thread ends then, or with what it is about to do."""
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
            log.warning("%d events were not delivered to %s within --event-grace", left, self._target.display)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"events-{self.name}", daemon=True)
            self._thread.start()

    # -- in the thread ---

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._settle(len(batch), delivered=self._deliver(batch))
        finally:
            self._target.close()

    def _take(self) -> list[ReceivedEvent]:
        """Wait for events; nothing when there will be none."""
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
                    self._complain(logging.ERROR, f"{_counted(batch)} given up: {error}")
                    return False
                self._complain(logging.WARNING, f"{error}; trying again")
            except Exception:
                # The one place for what nobody expected: the thread and the events behind these go on.
                log.exception("%s given up for a fault of tykpy itself", _counted(batch))
                return False
            else:
                if self._failures.forget(self._target.name):
                    log.warning("%s takes events again", self._target.display)
                return True
            if not self._pause(next(delays)):
                return False

    def _pause(self, delay: float) -> bool:
        """Wait before the next try, not long once the broker ends; False where there is to be none."""
        with self._changed:
            self._counters.retries += 1
        self._closing.wait(delay * random.uniform(0.5, 1.0))
        last_delay = self._options.first_delay if self._closing.is_set() else 0.0
        return not self._abandoned.wait(last_delay)

    def _settle(self, count: int, *, delivered: bool) -> None:
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


def _counted(batch: Sequence[ReceivedEvent]) -> str:
    return "1 event is" if len(batch) == 1 else f"{len(batch)} events are"
