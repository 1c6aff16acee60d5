"""Messages of workers on the control socket, also after their death, and what the broker tells them of APIs."""

import asyncio
import contextlib
import socket
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final, cast

import msgpack
import msgspec
import pytest

from tykpy.broker.catalog.api_table import MAX_APIS, ApiTable
from tykpy.broker.config import BrokerConfig
from tykpy.broker.pool.supervisor import PoolEvents, Supervisor
from tykpy.broker.pool.worker import Worker
from tykpy.broker.pool.worker_messages import read_message
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.ipc.channel.control import MAX_CONTROL_BYTES, ControlMessage, ControlSocket
from tykpy.ipc.description import MAX_NAME, MAX_PATH, PIECE_HOOKS
from tykpy.ipc.errors import ControlCorruptError
from tykpy.ipc.plugin_metrics import MAX_LABELS, MAX_NUMBERS, MAX_VALUE, PIECE_SERIES
from tykpy.ipc.plugin_metrics import MAX_NAME as MAX_METRIC_NAME


class NamedWorker:
    """A worker reduced to its control socket, and the other end of that."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.here = ControlSocket(ours, blocking=False)
        self.there = ControlSocket(theirs, blocking=False)
        channel, process = SimpleNamespace(control=self.here), SimpleNamespace(pid=0)
        self.worker = Worker(0, 1, cast(Any, channel), cast(Any, process), cast(Any, None))

    def heard(self) -> list[Any]:
        """Return the bodies of the messages that the broker sent."""
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


def test_last_messages_are_events_metrics_and_the_failure(workers: list[NamedWorker]) -> None:
    heard: list[tuple[str, Any]] = []
    loop = asyncio.new_event_loop()
    events = PoolEvents(lambda ready: None, lambda: None, lambda name, body: heard.append((name, body)))
    supervisor = Supervisor(loop, BrokerConfig(), Router(loop, RouterOptions(1, 1)), events)
    dead = workers[0]
    dead.there.send("ready")
    event = {"name": "last", "id": "1", "depth": 0, "document": "{}"}
    dead.there.send("event", event)
    dead.there.send("failed", {"message": "of no use"})
    dead.there.send("events_lost", {"count": 2})
    dead.there.send("metric", METRIC)
    dead.there.close()
    for _ in range(2):
        supervisor._hear_last_messages(dead.worker)
    assert heard == [("event", event), ("events_lost", {"count": 2})]
    assert dead.worker.failure == "of no use"
    assert [one.series for one in supervisor.plugin_metrics.families] == [[(("ok",), (1.0,))]]
    loop.run_until_complete(supervisor.stop())
    loop.close()


def test_workers_are_notified_of_a_new_api_once(workers: list[NamedWorker]) -> None:
    first, second, later = workers
    table = ApiTable()
    table.introduce(first.worker)
    table.note("1", "a", [second.worker])
    table.note("1", "a", [second.worker])
    table.note("1", "b", [second.worker])
    table.note("2", "c", [second.worker])
    table.introduce(later.worker)
    assert first.heard() == []
    assert second.heard() == [{"1": "a"}, {"1": "b"}, {"2": "c"}]
    assert later.heard() == [{"1": "b", "2": "c"}]


def test_workers_behind_one_that_is_gone_are_told(workers: list[NamedWorker]) -> None:
    gone, other, _ = workers
    gone.there.close()
    ApiTable().note("1", "a", [gone.worker, other.worker])
    assert other.heard() == [{"1": "a"}]


def test_endless_new_apis_do_not_fill_the_memory(workers: list[NamedWorker]) -> None:
    table = ApiTable()
    for number in range(MAX_APIS + 1):
        table.note(str(number), "a", [])
    table.introduce(workers[0].worker)
    assert workers[0].heard() == [{str(MAX_APIS): "a"}]


HOOK: Final[dict[str, Any]] = {
    "name": "a",
    "hook_type": None,
    "shape": "request, session, spec",
    "is_async": False,
    "timeout": 1.5,
    "on_error": "fail",
    "idempotent": False,
    "file": "/b/a.py",
    "line": 1,
    "listed": ["Pre"],
    "disabled": False,
}
FAULT: Final[dict[str, Any]] = {"message": "x", "file": "/b/a.py", "line": 2}
BUNDLE: Final[dict[str, Any]] = {
    "name": "b",
    "hashes": ["1", "2"],
    "path": "/b",
    "version": "1",
    "saved_copy": "",
    "state": "loaded",
    "error": None,
    "hooks": [HOOK],
    "faulty": [{"name": "c", "hook_type": "Pre", **FAULT}],
    "more": False,
}
METRIC: Final[dict[str, Any]] = {
    "bundle": "b",
    "kind": "counter",
    "name": "logins",
    "help": "Logins.",
    "labels": ("result",),
    "buckets": (),
    "aggregate": "",
    "series": [(("ok",), (1.0,))],
}


def news(name: str, body: Any) -> Any:
    return read_message(ControlMessage(name, msgspec.Raw(msgpack.packb(body))))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ready", None),
        ("bundle", BUNDLE),
        ("bundle", {**BUNDLE, "error": FAULT}),
        ("bundle", {**BUNDLE, "hooks": [{**HOOK, "timeout": None}], "more": True}),
        ("loading", {"path": "/b", "name": "b", "version": "1"}),
        ("replaced", {"path": "/b", "name": "b", "version": "1", "names": ["select.select"]}),
        ("left_behind", {"path": "/b", "name": "b", "version": "1", "kinds": ["threads"]}),
        ("gone", {"path": "/b"}),
        ("pong", None),
        ("failed", {"message": "of no use"}),
        ("event", {"name": "e", "id": "1", "depth": 3, "document": "{}"}),
        ("events_lost", {"count": 2}),
        ("metric", METRIC),
        ("metrics_dropped", {"bundle": "b", "reason": "series", "count": 2}),
    ],
)
def test_messages_are_decoded_completely(name: str, body: Any) -> None:
    assert news(name, body) == body


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("nonsense", None),
        ("pong", [[]]),
        ("ready", {}),
        ("bundle", {}),
        ("bundle", {**BUNDLE, "hashes": ["1"] * 9}),
        ("bundle", {**BUNDLE, "hooks": [{"name": "a"}]}),
        ("bundle", {**BUNDLE, "hooks": [{**HOOK, "timeout": float("inf")}]}),
        ("bundle", {**BUNDLE, "hooks": [{**HOOK, "listed": ["Pre"] * 9}]}),
        ("bundle", {**BUNDLE, "hooks": [{**HOOK, "name": "x" * (MAX_NAME + 1)}]}),
        ("bundle", {**BUNDLE, "hooks": [HOOK] * (PIECE_HOOKS + 1)}),
        ("bundle", {**BUNDLE, "faulty": [FAULT]}),
        ("bundle", {**BUNDLE, "path": "x" * (MAX_PATH + 1)}),
        ("loading", {"path": "/b"}),
        ("failed", {"message": 1}),
        ("event", None),
        ("event", []),
        ("event", {}),
        ("event", {"name": 1, "id": "1", "depth": 0, "document": "{}"}),
        ("event", {"name": "e", "id": b"1", "depth": 0, "document": "{}"}),
        ("event", {"name": "e", "id": "1", "depth": 0, "document": None}),
        ("event", {"name": "e", "id": "1", "depth": "0", "document": "{}"}),
        ("event", {"name": "e", "id": "1", "depth": -1, "document": "{}"}),
        ("events_lost", {"count": "many"}),
        ("events_lost", {"count": "2"}),
        ("metric", {}),
        ("metric", {**METRIC, "name": "x" * (MAX_METRIC_NAME + 1)}),
        ("metric", {**METRIC, "labels": ["x"] * (MAX_LABELS + 1)}),
        ("metric", {**METRIC, "series": [[["ok"], ["1"]]]}),
        ("metric", {**METRIC, "series": [[["x" * (MAX_VALUE + 1)], [1]]]}),
        ("metric", {**METRIC, "series": [[["ok"], [1] * (MAX_NUMBERS + 1)]]}),
        ("metric", {**METRIC, "series": METRIC["series"] * (PIECE_SERIES + 1)}),
        ("metrics_dropped", {"bundle": "b", "reason": "series", "count": -1}),
    ],
)
def test_malformed_messages_are_refused(name: str, body: Any) -> None:
    with pytest.raises((ValueError, ControlCorruptError)):
        news(name, body)


def longest(element: dict[str, Any], within: dict[str, Any], key: str) -> bytes:
    """Return a description with as many such elements as a message holds."""
    count = (MAX_CONTROL_BYTES - 1000) // len(msgpack.packb(element))
    return msgpack.packb({**within, key: [element] * count})  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "packed",
    [
        b"\x81\xa5hooks\xdd\x00\x3f\xff\xf0" + b"\x90" * 0x3FFFF0,
        b"\x81\xa5hooks\xdd\x00\x3f\xff\xf0" + b"\x80" * 0x3FFFF0,
        longest({}, BUNDLE, "hooks"),
        longest(dict.fromkeys(HOOK), BUNDLE, "hooks"),
        longest({**HOOK, "name": "", "shape": "", "file": "", "listed": ["\u0101"] * 8}, BUNDLE, "hooks"),
        longest({"name": "", "hook_type": "", "message": "", "file": "", "line": 0}, BUNDLE, "faulty"),
        msgpack.packb({**BUNDLE, "hashes": [""] * 0x3FF000}),
        msgpack.packb({**BUNDLE, "hashes": ["\u0101"] * 8, "hooks": [HOOK] * PIECE_HOOKS, "faulty": []}),
    ],
)
def test_a_message_takes_at_most_16_times_its_length(packed: bytes) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(ControlCorruptError):
            read_message(ControlMessage("bundle", msgspec.Raw(packed)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(packed) <= MAX_CONTROL_BYTES
    assert peak <= 16 * len(packed)
