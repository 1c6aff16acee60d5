"""The control socket: whole messages, whatever the pieces in which they come."""

import os
import select
import socket
import struct
import tracemalloc
from collections.abc import Iterator
from threading import Thread
from typing import Any

import msgpack
import msgspec
import pytest

from tykpy.ipc.channel import control
from tykpy.ipc.channel.control import ControlMessage, ControlSocket
from tykpy.ipc.errors import ControlClosedError, ControlCorruptError, ControlFullError

Pair = tuple[ControlSocket, ControlSocket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The broker's end and the worker's."""
    mine, theirs = socket.socketpair()
    broker, worker = ControlSocket(mine, blocking=False), ControlSocket(theirs, blocking=True)
    yield broker, worker
    broker.close()
    worker.close()


@pytest.fixture
def raw() -> Iterator[tuple[ControlSocket, socket.socket]]:
    """The broker's end and a worker's that writes what it likes."""
    mine, theirs = socket.socketpair()
    broker = ControlSocket(mine, blocking=False)
    yield broker, theirs
    broker.close()
    theirs.close()


def message(name: str, body: Any = None) -> ControlMessage:
    """A message as it arrives."""
    return ControlMessage(name, msgspec.Raw(msgpack.packb(body)))


def framed(body: bytes) -> bytes:
    """A message on the wire."""
    return struct.pack("<I", len(body)) + body


def test_messages_arrive_in_order_with_their_types(pair: Pair) -> None:
    broker, worker = pair
    worker.send("hooks", {"s": "text", "b": b"bytes", "n": [1, 2.5, None]})
    worker.send("ready")
    assert broker.receive() == [
        message("hooks", {"s": "text", "b": b"bytes", "n": [1, 2.5, None]}),
        message("ready"),
    ]
    assert broker.receive() == []


def test_a_blocking_end_waits_for_a_message(pair: Pair) -> None:
    broker, worker = pair
    received: list[ControlMessage] = []
    thread = Thread(target=lambda: received.extend(worker.receive()))
    thread.start()
    broker.send("drain")
    thread.join()
    assert received == [message("drain")]


def test_closing_wakes_a_blocked_receive(pair: Pair) -> None:
    _, worker = pair
    errors: list[Exception] = []

    def receive() -> None:
        try:
            worker.receive()
        except ControlClosedError as error:
            errors.append(error)

    thread = Thread(target=receive)
    thread.start()
    worker.close()
    thread.join()
    assert len(errors) == 1


def test_the_end_of_file_comes_after_the_last_message(pair: Pair) -> None:
    broker, worker = pair
    worker.send("failed", "why")
    worker.close()
    assert [message.name for message in broker.receive()] == ["failed"]
    with pytest.raises(ControlClosedError):
        broker.receive()
    with pytest.raises(ControlClosedError):
        broker.receive()


def test_sending_to_a_dead_worker_says_so(pair: Pair) -> None:
    broker, worker = pair
    worker.close()
    with pytest.raises(ControlClosedError):
        broker.send("drain")


def test_a_message_in_pieces_is_put_together(raw: tuple[ControlSocket, socket.socket]) -> None:
    broker, worker = raw
    data = framed(msgpack.packb(["ready", {"pid": 1}]))
    for index in range(len(data)):
        assert broker.receive() == []
        worker.sendall(data[index : index + 1])
    assert broker.receive() == [message("ready", {"pid": 1})]


def test_what_the_socket_does_not_take_waits_and_is_flushed(pair: Pair) -> None:
    broker, worker = pair
    body = bytes(1024 * 1024)
    broker.send("big", body)
    broker.send("small")
    assert broker.waiting > 0
    received: list[ControlMessage] = []

    def receive() -> None:
        while len(received) < 2:
            received.extend(worker.receive())

    thread = Thread(target=receive)
    thread.start()
    while not broker.flush():
        select.select([], [broker], [])
    thread.join()
    assert [(message.name, message.body) for message in received] == [("big", body), ("small", None)]
    assert broker.waiting == 0


def test_a_worker_that_never_reads_is_given_up(pair: Pair) -> None:
    broker, _ = pair
    for _ in range(3):
        broker.send("reload", bytes(2 * 1024 * 1024))
    with pytest.raises(ControlFullError) as caught:
        broker.send("reload", bytes(4 * 1024 * 1024))
    assert caught.value.limit == control.MAX_WAITING_BYTES


@pytest.mark.parametrize(
    "data",
    [
        framed(b""),
        framed(b"\xc1"),
        framed(msgpack.packb("ready")),
        framed(msgpack.packb(["ready"])),
        framed(msgpack.packb([1, None])),
        framed(msgpack.packb(["ready", None, None])),
        framed(msgpack.packb(["ready", None]) + b"\0"),
        framed(b"\x91" * 2000),
        struct.pack("<I", control.MAX_CONTROL_BYTES + 1),
        b"\xff" * 8,
    ],
)
def test_nonsense_is_corruption_and_no_other_error(raw: tuple[ControlSocket, socket.socket], data: bytes) -> None:
    broker, worker = raw
    worker.sendall(data)
    with pytest.raises(ControlCorruptError):
        broker.receive()


@pytest.mark.parametrize("packed", [b"\x81\x80\x00", b"\xa2\xff\xfe", b"\xd7\xff" + b"\xff" * 8])
def test_a_body_that_makes_no_sense_is_found_when_it_is_read(
    raw: tuple[ControlSocket, socket.socket], packed: bytes
) -> None:
    broker, worker = raw
    worker.sendall(framed(b"\x92\xa1x" + packed))
    (received,) = broker.receive()
    with pytest.raises(ControlCorruptError, match="'x'"):
        _ = received.body


def test_a_body_decodes_only_as_the_expected_type(pair: Pair) -> None:
    broker, worker = pair
    worker.send("numbers", [1, 2])
    (received,) = broker.receive()
    assert received.read(msgspec.msgpack.Decoder(list[int])) == [1, 2]
    with pytest.raises(ControlCorruptError, match="'numbers'"):
        received.read(msgspec.msgpack.Decoder(dict[str, int]))


def test_an_unread_message_takes_no_more_than_its_length(raw: tuple[ControlSocket, socket.socket]) -> None:
    broker, worker = raw
    length = control.MAX_CONTROL_BYTES - 16
    bomb = framed(b"\x92\xa1x\xdd" + struct.pack(">I", length) + b"\x90" * length)
    thread = Thread(target=worker.sendall, args=(bomb,))
    tracemalloc.start()
    thread.start()
    try:
        while not (received := broker.receive()):
            select.select([broker], [], [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        thread.join()
    assert [one.name for one in received] == ["x"]
    assert peak < 4 * len(bomb)


def test_descriptors_on_the_control_socket_are_dropped(raw: tuple[ControlSocket, socket.socket]) -> None:
    broker, worker = raw
    before = os.listdir("/proc/self/fd")
    socket.send_fds(worker, [framed(msgpack.packb(["ready", None]))], [0, 1])
    assert broker.receive() == [message("ready")]
    assert os.listdir("/proc/self/fd") == before
