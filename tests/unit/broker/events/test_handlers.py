"""The events of workers: parsing them, and dispatching them to the pool's handlers."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.channels import LocalWorker, local_worker
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.broker.events.distributor import EventDistributor
from tykpy.broker.events.event import ReceivedEvent
from tykpy.broker.events.handlers import MAX_DEPTH, MAX_IN_FLIGHT, EventHandlers
from tykpy.broker.router.hook_table import EVENT_SHAPE
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.ipc.frame import Kind, Status, pack_error, unpack_frame

LONG_NS = 60_000_000_000
BODY = {"name": "quota", "id": "1", "depth": 0, "document": "{}"}


@pytest.fixture
def router() -> Iterator[Router]:
    """A router that knows a handler `quota`, and has no worker yet."""
    loop = asyncio.new_event_loop()
    router = Router(loop, RouterOptions(LONG_NS, 10 * MAX_IN_FLIGHT))
    router.hooks.update([{"hooks": [{"name": "quota", "shape": EVENT_SHAPE}]}])
    yield router
    loop.close()


@pytest.fixture
def worker(router: Router) -> Iterator[LocalWorker]:
    """A worker whose answers the test gives."""
    with local_worker() as one:
        router.join(one.link)
        yield one


def counts(handlers: EventHandlers) -> dict[str, int]:
    return {name: count for name, count in handlers.describe().items() if count}


def test_an_event_is_dispatched_as_a_gateway_would(router: Router, worker: LocalWorker) -> None:
    handlers = EventHandlers(router)
    assert handlers.offer("quota", 0, '{"handler_name": "quota"}')
    router._ring()
    request = worker.claim()
    kind, _, body, _ = unpack_frame(request.payload)
    assert (kind, Event.FromString(body).payload) == (Kind.EVENT, '{"handler_name": "quota"}')
    assert counts(handlers) == {"under_way": 1}


def offer_to_a_worker_without_it(handlers: EventHandlers, router: Router, worker: LocalWorker) -> bool:
    asked = handlers.offer("quota", 0, "{}")
    if asked:
        router._ring()
        worker.channel.answer(0, worker.claim().seq, pack_error(Status.NOT_FOUND, "gone"), True, 1)
        router.receive(worker.link)
    return asked


def test_a_missing_handler_is_not_called_again(router: Router, worker: LocalWorker) -> None:
    handlers = EventHandlers(router)
    router.hooks.update([{"hooks": [{"name": "add_header", "shape": "request, session, spec"}]}])
    assert offer_to_a_worker_without_it(handlers, router, worker)
    assert not offer_to_a_worker_without_it(handlers, router, worker)
    assert counts(handlers) == {"without_handler": 2}


def test_an_old_worker_cannot_deny_a_new_handler(router: Router, worker: LocalWorker) -> None:
    handlers = EventHandlers(router)
    assert offer_to_a_worker_without_it(handlers, router, worker)
    assert offer_to_a_worker_without_it(handlers, router, worker)


def test_too_many_events_at_a_time_are_dropped(router: Router) -> None:
    handlers = EventHandlers(router)
    for _ in range(MAX_IN_FLIGHT + 2):
        assert handlers.offer("quota", 0, "{}")
    assert counts(handlers) == {"dropped": 2, "under_way": MAX_IN_FLIGHT}


def test_no_handler_starts_while_the_broker_drains(router: Router) -> None:
    handlers = EventHandlers(router)
    router.draining = True
    handlers.offer("quota", 0, "{}")
    assert counts(handlers) == {"dropped": 1}


def test_an_event_from_too_deep_is_not_handled(router: Router) -> None:
    handlers = EventHandlers(router)
    handlers.offer("quota", MAX_DEPTH, "{}")
    handlers.offer("quota", MAX_DEPTH - 1, "{}")
    assert counts(handlers) == {"looped": 1, "under_way": 1}


class Remembering:
    """A sink that records its events."""

    name = "memory"

    def __init__(self) -> None:
        self.events: list[ReceivedEvent] = []

    def offer(self, event: ReceivedEvent) -> None:
        """Record the event."""
        self.events.append(event)

    def describe(self) -> dict[str, int]:
        """Count."""
        return {"kept": len(self.events)}

    async def close(self, grace: float) -> None:
        """Do nothing."""


def test_every_sink_gets_every_event(router: Router) -> None:
    sinks = Remembering(), Remembering()
    events = EventDistributor(router, sinks)
    events.receive("event", BODY)
    events.receive("event", {**BODY, "name": "unhandled"})
    events.receive("events_lost", {"count": 3})
    assert [[event.name for event in sink.events] for sink in sinks] == [["quota", "unhandled"]] * 2
    described = events.describe()
    assert (described["triggered"], described["lost_in_workers"], described["memory"]) == (2, 3, {"kept": 2})
