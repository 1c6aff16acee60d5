"""Distributes the events that plugins trigger: from the workers to the pool's handlers and to every configured sink.

Sinks do their slow work elsewhere: nothing here waits.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from tykpy.broker.config import BrokerConfig
from tykpy.broker.events.delivery import Delivery, DeliveryOptions
from tykpy.broker.events.event import ReceivedEvent
from tykpy.broker.events.handlers import EventHandlers
from tykpy.broker.router.router import Router
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.records import counted

log = logging.getLogger("tykpy.events")

MAX_LOGGED: Final = 8_192
"""Longest event in the log, in characters."""


class Sink(Protocol):
    """A destination of every event."""

    name: str
    """The name in `tykpy status`."""

    def offer(self, event: ReceivedEvent) -> None:
        """Take the event, or count it as dropped; never waits."""

    def describe(self) -> dict[str, int]:
        """Return counters of what became of the events."""

    async def close(self, grace: float) -> None:
        """Deliver waiting events within `grace` seconds, then stop."""


class EventDistributor:
    """Passes on every event that a worker sends."""

    def __init__(self, router: Router, sinks: Sequence[Sink]) -> None:
        self._triggered = 0
        self._lost_in_workers = 0
        """Events that did not fit into a worker's queue, or were too large."""
        self._handlers = EventHandlers(router)
        self._sinks = sinks
        self._notices = QuietLog(log)

    def receive(self, message: str, body: Any) -> None:
        """Take a worker's message, `event` or `events_lost`; `pool.worker_messages` has checked it."""
        if message == "event":
            self._distribute(ReceivedEvent(**body))
        else:
            count = body["count"]
            self._lost_in_workers += count
            what = counted(count, "event was", "events were")
            self._notices.log(logging.WARNING, "lost", f"{what} triggered faster than a worker could send")

    def describe(self) -> dict[str, Any]:
        """Return the counters, for `tykpy status`."""
        sinks = {sink.name: sink.describe() for sink in self._sinks}
        received = {"triggered": self._triggered, "lost_in_workers": self._lost_in_workers}
        return {**received, "handlers": self._handlers.describe(), **sinks}

    async def close(self, grace: float) -> None:
        """Deliver waiting events within `grace` seconds, then stop."""
        await asyncio.gather(*(sink.close(grace) for sink in self._sinks))

    def _distribute(self, event: ReceivedEvent) -> None:
        self._triggered += 1
        for sink in self._sinks:
            sink.offer(event)
        handled = self._handlers.offer(event.name, event.depth, event.document)
        if not handled and not self._sinks:
            text = "no bundle has an @Event handler of that name, and no --event-stream, --event-webhook, --event-log"
            self._notices.log(logging.WARNING, f"nowhere {event.name}", f"event {event.name!r} goes nowhere: {text}")


class EventLog:
    """A sink that writes events to the log."""

    name = "log"

    def __init__(self) -> None:
        self._written = 0

    def offer(self, event: ReceivedEvent) -> None:
        """Write the event's document, which is one line of JSON."""
        self._written += 1
        log.info("%s", event.document[:MAX_LOGGED])

    def describe(self) -> dict[str, int]:
        """Return how many events were written."""
        return {"delivered": self._written}

    async def close(self, grace: float) -> None:
        """Do nothing: no event waits."""
        return


def open_sinks(config: BrokerConfig) -> tuple[Sink, ...]:
    """Open the configured sinks. Modules are imported here, since only some sinks need Redis's library, HTTP or TLS."""
    sinks: list[Sink] = []
    if config.event_log:
        sinks.append(EventLog())
    if config.event_stream is not None and config.redis is not None:
        from tykpy.broker.events.stream import RedisStream
        from tykpy.redisclient.address import parse_redis_url

        stream = RedisStream(parse_redis_url(config.redis), config.event_stream, config.event_stream_length)
        sinks.append(Delivery(stream, DeliveryOptions(config.event_queue)))
    if config.event_webhook is not None:
        from tykpy.broker.events.webhook import Webhook

        sinks.append(Delivery(Webhook(config.event_webhook), DeliveryOptions(config.event_queue)))
    return tuple(sinks)
