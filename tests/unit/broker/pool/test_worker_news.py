"""What workers say besides answers: of their plugins' events, also as their last words, and of the APIs they see."""

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.config import BrokerConfig
from broker.pool.apis import MAX_APIS, ApiTable
from broker.pool.supervisor import PoolEvents, Supervisor
from broker.pool.worker import Worker
from broker.routing.contract import RouterOptions
from broker.routing.router import Router
from ipc.control import ControlSocket


class NamedWorker:
    """As much of a worker as has a control socket, and the other end of that."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.here = ControlSocket(ours, blocking=False)
        self.there = ControlSocket(theirs, blocking=False)
        self.namespace = SimpleNamespace(channel=SimpleNamespace(control=self.here), failure=None)

    @property
    def worker(self) -> Worker:
        """What the broker takes for a worker."""
        return cast(Worker, self.namespace)

    def heard(self) -> list[Any]:
        """The bodies of the messages that the broker sent."""
        return [message.body for message in self.there.receive()]

    def close(self) -> None:
        """Close both ends."""
        self.here.close()
        self.there.close()


@pytest.fixture
def workers() -> Iterator[list[NamedWorker]]:
    made = [NamedWorker() for _ in range(3)]
    yield made
    for one in made:
        one.close()


def test_the_last_words_of_a_worker_are_its_events_and_why_it_failed(workers: list[NamedWorker]) -> None:
    heard: list[tuple[str, Any]] = []
    loop = asyncio.new_event_loop()
    events = PoolEvents(lambda ready: None, lambda: None, lambda name, body: heard.append((name, body)))
    supervisor = Supervisor(loop, BrokerConfig(), Router(loop, RouterOptions(1, 1)), events)
    dead = workers[0]
    dead.there.send("ready", {"bundles": []})
    dead.there.send("event", {"name": "last"})
    dead.there.send("failed", {"message": "of no use"})
    dead.there.send("events_lost", {"count": 2})
    dead.there.close()
    for _ in range(2):
        supervisor._hear_last_words(dead.worker)
    assert heard == [("event", {"name": "last"}), ("events_lost", {"count": 2})]
    assert dead.worker.failure == "of no use"
    loop.run_until_complete(supervisor.stop())
    loop.close()


def test_what_one_worker_sees_of_an_api_the_others_are_told(workers: list[NamedWorker]) -> None:
    first, second, later = workers
    table = ApiTable()
    table.introduce(first.worker)
    table.note({"api": "1", "bundle_hash": "a"}, [second.worker])
    table.note({"api": "1", "bundle_hash": "b"}, [second.worker])
    table.note({"api": "2", "bundle_hash": "c"}, [second.worker])
    table.introduce(later.worker)
    assert first.heard() == []
    assert second.heard() == [{"1": "a"}, {"1": "b"}, {"2": "c"}]
    assert later.heard() == [{"1": "b", "2": "c"}]


def test_a_worker_that_is_gone_does_not_keep_the_others_from_being_told(workers: list[NamedWorker]) -> None:
    gone, other, _ = workers
    gone.there.close()
    ApiTable().note({"api": "1", "bundle_hash": "a"}, [gone.worker, other.worker])
    assert other.heard() == [{"1": "a"}]


def test_endless_new_apis_do_not_fill_the_memory(workers: list[NamedWorker]) -> None:
    table = ApiTable()
    for number in range(MAX_APIS + 1):
        table.note({"api": str(number), "bundle_hash": "a"}, [])
    table.introduce(workers[0].worker)
    assert workers[0].heard() == [{str(MAX_APIS): "a"}]


@pytest.mark.parametrize("body", [None, [], {}, {"api": "1"}])
def test_what_is_no_api_is_refused(body: Any) -> None:
    with pytest.raises((KeyError, TypeError)):
        ApiTable().note(body, [])
