"""Events that a worker sends: their documents, their order, and that hooks never wait for them."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.broker import wait_until
from tyk.call import NO_ORIGIN, RUNNING
from tyk.event import TykEvent
from tyk.gateway.testing import FakeHook
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bundles import forked
from tykpy.ipc.channel.control import ControlSocket
from tykpy.workers.events import (
    MAX_DEPTH,
    MAX_EVENT_CHARACTERS,
    MAX_SPEC_CHARACTERS,
    MAX_WAITING,
    MAX_WAITING_CHARACTERS,
    OutgoingEvent,
    SentEvents,
    go_time,
)

Read = Callable[[], list[tuple[str, Any]]]


@pytest.fixture
def ends() -> Iterator[tuple[SentEvents, Read]]:
    """A worker's events, and those that the broker has received."""
    ours, theirs = socket.socketpair()
    control, broker = ControlSocket(ours, blocking=True), ControlSocket(theirs, blocking=False)
    events = SentEvents(control)
    yield events, lambda: [(message.name, message.body) for message in broker.receive()]
    broker.close()
    events.finish()
    control.close()


def read_until(read: Read, count: int) -> list[tuple[str, Any]]:
    """Read until `count` messages have arrived."""
    found: list[tuple[str, Any]] = []

    def enough() -> bool:
        found.extend(read())
        return len(found) >= count

    wait_until(enough, lambda: f"{count} messages; there are {found}")
    return found


def document(payload: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(OutgoingEvent.here("name", payload).message()["document"])
    return decoded


@pytest.mark.parametrize(
    ("payload", "meta"),
    [
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ('[{"a": 1}]', [{"a": 1}]),
        ("just text", "just text"),
        ("5", "5"),
        ("", ""),
        ('{"not": json', '{"not": json'),
        ('{"a": NaN}', '{"a": NaN}'),
        ("[" * 100_000, "[" * 100_000),
        ("half \ud800 a pair", "half \ud800 a pair"),
    ],
    ids=range(9),
)
def test_meta_is_the_payload_or_its_decoded_json(payload: str, meta: Any) -> None:
    assert document(payload)["message"]["Meta"] == meta


def test_an_event_names_the_hook_that_triggered_it() -> None:
    spec = {"APIID": "a" * 5_000, "OrgID": "o", "bundle_hash": "h", "config_data": "{}"}
    RUNNING.set((FakeHook("hook", "mine"), Object(spec=spec), 0, NO_ORIGIN))
    try:
        event = OutgoingEvent.here("name", "")
    finally:
        RUNNING.set(None)
    assert event.bundle == "mine"
    assert event.spec == {"APIID": "a" * MAX_SPEC_CHARACTERS, "OrgID": "o", "bundle_hash": "h"}
    assert event.depth == 0


@pytest.mark.parametrize(
    ("triggered", "depth"),
    [
        ({"depth": 2}, 3),
        ({"depth": 10**30}, MAX_DEPTH + 1),
        ({"depth": "2"}, 0),
        ({"depth": -1}, 0),
        ("x", 0),
        (None, 0),
    ],
)
def test_an_event_of_a_handler_is_one_level_deeper(triggered: Any, depth: int) -> None:
    payload = json.dumps({"handler_name": "h", "triggered": triggered})
    RUNNING.set((FakeHook("hook", "mine"), TykEvent.from_json(payload), 0, NO_ORIGIN))
    try:
        assert OutgoingEvent.here("name", "").depth == depth
    finally:
        RUNNING.set(None)


def test_an_event_outside_of_hooks_has_no_origin() -> None:
    assert document("")["spec"] == {}
    assert document("")["triggered"]["bundle"] == ""


def test_times_are_formatted_as_in_go() -> None:
    assert go_time(1_700_000_000_000_000_042) == "2023-11-14 22:13:20.000000042 +0000 UTC"


def test_events_arrive_in_order(ends: tuple[SentEvents, Read]) -> None:
    events, read = ends
    for number in range(100):
        events.trigger(f"event-{number}", "{}")
    messages = read_until(read, 100)
    assert [body["name"] for _, body in messages] == [f"event-{number}" for number in range(100)]
    assert len({body["id"] for _, body in messages}) == 100


def test_a_broker_that_does_not_read_never_blocks_a_hook(ends: tuple[SentEvents, Read]) -> None:
    events, read = ends
    payload = "x" * 50_000
    for _ in range(200):
        events.trigger("large", payload)
    events.trigger("too large", "x" * MAX_EVENT_CHARACTERS)
    got, lost = 0, 0
    while got + lost < 201:
        for name, body in read_until(read, 1):
            got += name == "event"
            lost += body["count"] if name == "events_lost" else 0
    assert lost >= 201 - MAX_WAITING_CHARACTERS // len(payload) * 2
    assert got >= MAX_WAITING_CHARACTERS // (len(payload) + 5)


def test_the_number_of_waiting_events_is_bounded(
    ends: tuple[SentEvents, Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    events, read = ends
    monkeypatch.setattr(SentEvents, "_start", lambda self: None)
    for _ in range(MAX_WAITING + 3):
        events.trigger("small", "")
    monkeypatch.undo()
    events.trigger("one more", "")
    messages = read_until(read, MAX_WAITING + 1)
    assert [body for name, body in messages if name == "events_lost"] == [{"count": 4}]
    assert sum(name == "event" for name, _ in messages) == MAX_WAITING


def test_finish_sends_waiting_events_and_no_later_ones(ends: tuple[SentEvents, Read]) -> None:
    events, read = ends
    events.trigger("last", "")
    events.finish()
    events.trigger("too late", "")
    assert [body["name"] for name, body in read() if name == "event"] == ["last"]


def test_finish_waits_for_a_broker_that_reads_slowly(
    ends: tuple[SentEvents, Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tykpy.workers.events.FINISH_S", 0.5)
    events, read = ends
    many = 15
    for number in range(many):
        events.trigger(str(number), "x" * (MAX_EVENT_CHARACTERS - 10))
    finishing = threading.Thread(target=events.finish)
    finishing.start()
    names = []
    waits = True
    while waits:
        waits = finishing.is_alive()
        time.sleep(0.02)  # the pace of this broker: it waits for nothing
        names += [body["name"] for name, body in read() if name == "event"]
    assert names == [str(number) for number in range(many)]


def test_a_name_is_a_string(ends: tuple[SentEvents, Read]) -> None:
    events, read = ends
    with pytest.raises(TypeError, match="an event's name is a str, not int"):
        events.trigger(5, "")  # type: ignore[arg-type]
    events.trigger("half \ud800", "")
    ((_, body),) = read_until(read, 1)
    assert body["name"] == "half ?"


def test_a_forked_child_sends_nothing(ends: tuple[SentEvents, Read], monkeypatch: pytest.MonkeyPatch) -> None:
    events, read = ends
    monkeypatch.setattr(forked, "is_child", True)
    events.trigger("Child", "{}")
    events.finish()
    assert read() == []
