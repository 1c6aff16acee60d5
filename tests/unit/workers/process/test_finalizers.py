"""A plugin's finalizer may run at any allocation of ours, and use all that plugins have: it never waits for ever.

The garbage collector is made to run as often as it can while something is done again and again, and each run finds an
object whose `__del__` does the same.
"""

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.support.broker import PATIENCE
from tyk import metrics
from tyk.gateway.backend import MemoryStorage, Storage
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.request import Changes, LazyRequest
from tykpy.ipc.bodies.store import BorrowedBody
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.errors import ControlClosedError
from tykpy.workers.api_bundles import ApiBundles
from tykpy.workers.events import SentEvents
from tykpy.workers.storage import open_storage
from tykpy.workers.storage.failures import Breaker, FailureLog
from tykpy.workers.storage.timelimit import TimeLimitedCalls

Action = Callable[[], object]
ROUNDS = 30


class Garbage:
    """A cycle that does something when it is collected, and leaves another one behind."""

    left = 0
    ran = 0

    def __init__(self, action: Action) -> None:
        self.itself = self
        self.action = action

    def __del__(self) -> None:
        if Garbage.left > 0:
            Garbage.left -= 1
            Garbage.ran += 1
            self.action()
            Garbage(self.action)


def interrupted(action: Action, by: Action) -> None:
    """Do something while finalizers do something else; fails where it does not come to an end."""

    failures: list[BaseException] = []

    def run() -> None:
        Garbage.left, Garbage.ran = ROUNDS * 20, 0
        Garbage(by)
        before, was_enabled = gc.get_threshold(), gc.isenabled()
        gc.set_threshold(1)
        gc.enable()
        kept: list[list[int]] = []
        try:
            for _ in range(ROUNDS):
                # Some actions make hardly anything that counts for the collector.
                kept.extend([] for _ in range(100))
                action()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            gc.set_threshold(*before)
            if not was_enabled:
                gc.disable()
            Garbage.left = 0
            gc.collect()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for itself"
    assert not failures
    assert Garbage.ran


def use(request: LazyRequest) -> None:
    """Use every method that plugins have."""
    request.add_header("X-Two", "2")
    request.delete_header("X-One")
    request.add_param("a", "1")
    request.delete_param("b")
    request.get_header("X-One")
    assert request.object.url == "/path"


class Source:
    """Completes the message with its URL; Python code runs meanwhile."""

    def __init__(self, missing: MiniRequestObject | bytes) -> None:
        self._missing = missing

    @property
    def headers(self) -> dict[str, str]:
        return {"X-One": "1"}

    def read(self) -> MiniRequestObject | bytes:
        assert [[] for _ in range(3)]
        return self._missing


URL = MiniRequestObject(url="/path")


@pytest.fixture(params=[URL, URL.SerializeToString()], ids=["message", "bytes"])
def make(request: pytest.FixtureRequest) -> Callable[[], LazyRequest]:
    """Make lazy requests."""
    return lambda: LazyRequest(MiniRequestObject(), Source(request.param), Changes())


def test_requests_may_be_used_inside_each_other(make: Callable[[], LazyRequest]) -> None:
    interrupted(lambda: use(make()), by=lambda: use(make()))


def test_a_request_may_be_loaded_while_it_is_loaded(make: Callable[[], LazyRequest]) -> None:
    """Its changes are in the message once, whoever loaded it."""
    current = [make()]

    def load() -> None:
        request = current[0] = make()
        request.delete_header("X-One")
        request.object.url = "/other"
        assert request.object.url == "/other"
        assert list(request.object.delete_headers).count("X-One") == 1

    interrupted(load, by=lambda: current[0].object)


@pytest.fixture
def body(tmp_path: Path) -> Iterator[BorrowedBody]:
    """A body that somebody else has."""
    path = tmp_path / "body"
    path.write_bytes(b"x" * 1000)
    descriptor = os.open(path, os.O_RDONLY)
    yield BorrowedBody(descriptor, 0, 1000, 1000)
    os.close(descriptor)


def test_a_borrowed_body_is_read_while_it_is_read(body: BorrowedBody) -> None:
    interrupted(body.whole, by=body.whole)


def test_a_body_released_while_it_is_read_is_an_error(body: BorrowedBody, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> bytes:
        body.give_back()
        return b"another's"

    monkeypatch.setattr("tykpy.ipc.bodies.store.read_whole", read)
    with pytest.raises(LookupError, match="it is gone"):
        body.whole()


def use_storage(storage: Storage) -> None:
    """All that plugins do with a storage."""
    storage.store("key", b"value", 60)
    storage.fetch("key")


def test_a_store_is_opened_while_it_is_opened(tmp_path: Path) -> None:
    """Each round opens one, which the finalizers use as well."""
    current = [open_storage(None, tmp_path)]

    def open_anew() -> None:
        current[0].close()
        current[0] = open_storage(None, tmp_path)
        use_storage(current[0])

    interrupted(open_anew, by=lambda: use_storage(current[0]))
    current[0].close()


def test_a_memory_store_is_used_while_it_is_used() -> None:
    storage = MemoryStorage()
    interrupted(lambda: use_storage(storage), by=lambda: use_storage(storage))
    assert storage.fetch("key") == b"value"


def test_a_redis_that_is_gone_is_asked_while_it_is_asked(tmp_path: Path) -> None:
    storage = open_storage(f"unix://{tmp_path}/nobody.sock", tmp_path)
    interrupted(lambda: use_storage(storage), by=lambda: use_storage(storage))
    storage.close()


def test_a_time_limited_call_is_made_while_one_is_made() -> None:
    calls = TimeLimitedCalls("limited")
    interrupted(lambda: calls.call(list, PATIENCE), by=lambda: calls.call(list, PATIENCE))
    calls.close()


def test_a_breaker_is_asked_while_it_is_asked() -> None:
    breaker, failures = Breaker(0.0, 0.0), FailureLog()

    def ask() -> None:
        if breaker.allows():
            breaker.failed()
            failures.failed("gone")
        if breaker.allows():
            breaker.succeeded()
            failures.recovered("back")

    interrupted(ask, by=ask)
    breaker.succeeded()
    assert breaker.allows()


def test_an_event_is_triggered_while_one_is_triggered() -> None:
    """None is lost, and none is sent twice."""
    ours, theirs = socket.socketpair()
    control, broker = ControlSocket(ours, blocking=True), ControlSocket(theirs, blocking=True)
    events, found = SentEvents(control), list[str]()

    def read() -> None:
        with suppress(ControlClosedError):
            while True:
                found.extend(message.body["name"] for message in broker.receive() if message.name == "event")

    reader = threading.Thread(target=read)
    reader.start()
    names = map(str, count())
    interrupted(lambda: events.trigger(next(names), ""), by=lambda: events.trigger(next(names), ""))
    events.finish()
    control.close()
    reader.join()
    broker.close()
    assert sorted(map(int, found)) == list(range(int(next(names))))


def test_metrics_are_used_while_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "registry", metrics.Registry())
    calls = count()

    def use_all() -> None:
        next(calls)
        metrics.counter("calls").inc()
        metrics.counter("clients", labels=["name"]).labels(next(calls)).inc()
        metrics.gauge("level").inc()
        metrics.histogram("times", buckets=[1]).observe(2)
        metrics.collect()
        list(metrics.registry.current().changes())

    interrupted(use_all, use_all)
    values = {one.name: one.value for one in metrics.collect()}
    assert values["calls_total"] == values["level"] == values["times_count"] == next(calls) // 2


def test_an_api_is_learnt_while_one_is_learnt() -> None:
    apis = ApiBundles()
    names = map(str, count())

    def learn() -> None:
        name = next(names)
        apis.remember(name, "hash")
        assert apis.find(name) == "hash"

    interrupted(learn, by=learn)
