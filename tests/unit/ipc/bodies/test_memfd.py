"""Bodies in memory of their own: arrive whole, or fail alone."""

import itertools
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.ipc.bodies.memfd import SpillSocket, release
from tykpy.ipc.errors import RingCorruptError, SegmentError, SpillError
from tykpy.ipc.ring.segment import create_memory, is_memory_of

Pair = tuple[SpillSocket, SpillSocket]
BIG = os.urandom(300_000)


@pytest.fixture
def device() -> int:
    writable, readable = create_memory()
    number = os.fstat(writable).st_dev
    os.close(writable)
    os.close(readable)
    return number


@pytest.fixture
def pair(device: int) -> Iterator[Pair]:
    mine, theirs = socket.socketpair()
    sender, receiver = SpillSocket(mine, device), SpillSocket(theirs, device)
    yield sender, receiver
    sender.close()
    receiver.close()


@pytest.fixture
def raw(device: int) -> Iterator[tuple[socket.socket, SpillSocket]]:
    mine, theirs = socket.socketpair()
    receiver = SpillSocket(theirs, device)
    yield mine, receiver
    mine.close()
    receiver.close()


def test_a_message_arrives_whole(pair: Pair) -> None:
    sender, receiver = pair
    release(sender.send(5, BIG), discard=False)
    assert receiver.receive(5, len(BIG), skip_revoked=False) == BIG


def test_messages_of_revoked_requests_are_dropped(pair: Pair) -> None:
    sender, receiver = pair
    for seq in (1, 2, 3):
        release(sender.send(seq, BIG), discard=seq < 3)
    assert receiver.receive(3, len(BIG), skip_revoked=True) == BIG


def test_discarded_memory_is_freed_before_it_is_received(pair: Pair) -> None:
    sender, _ = pair
    memory = sender.send(1, BIG)
    watched = os.dup(memory)
    assert os.fstat(watched).st_blocks > 0
    release(memory, discard=True)
    assert os.fstat(watched).st_blocks == 0
    os.close(watched)


def test_the_receiver_cannot_write_the_message(raw: tuple[socket.socket, SpillSocket], device: int) -> None:
    sender, receiver = raw
    release(SpillSocket(sender, device).send(1, BIG), discard=False)
    _, descriptors, _, _ = socket.recv_fds(receiver._socket, 16, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(descriptors[0], b"x", 0)
    os.close(descriptors[0])


def test_a_worker_may_not_send_what_it_did_not_announce(pair: Pair) -> None:
    sender, receiver = pair
    release(sender.send(1, BIG), discard=False)
    with pytest.raises(RingCorruptError, match="not announced"):
        receiver.receive(2, len(BIG), skip_revoked=False)


def test_a_spill_record_without_its_message_is_corruption(pair: Pair) -> None:
    with pytest.raises(RingCorruptError, match="without its message"):
        pair[1].receive(1, 10, skip_revoked=True)


def test_a_half_message_is_corruption(raw: tuple[socket.socket, SpillSocket]) -> None:
    sender, receiver = raw
    sender.send(b"half")
    with pytest.raises(RingCorruptError, match="without its message"):
        receiver.receive(1, 10, skip_revoked=False)


def test_a_lost_descriptor_fails_only_that_message(raw: tuple[socket.socket, SpillSocket]) -> None:
    sender, receiver = raw
    sender.send(struct.pack("<QQ", 1, 10))
    with pytest.raises(SpillError, match="too many open files"):
        receiver.receive(1, 10, skip_revoked=False)


def test_memory_of_another_size_is_corruption(raw: tuple[socket.socket, SpillSocket]) -> None:
    sender, receiver = raw
    writable, readable = create_memory()
    os.pwrite(writable, bytes(9), 0)
    socket.send_fds(sender, [struct.pack("<QQ", 1, 10)], [readable])
    with pytest.raises(RingCorruptError, match="announced"):
        receiver.receive(1, 10, skip_revoked=False)
    os.close(writable)
    os.close(readable)


def test_another_kind_of_file_is_corruption(raw: tuple[socket.socket, SpillSocket], tmp_path: Path) -> None:
    sender, receiver = raw
    (tmp_path / "file").write_bytes(bytes(10))
    with (tmp_path / "file").open("rb") as file:
        socket.send_fds(sender, [struct.pack("<QQ", 1, 10)], [file.fileno()])
    with pytest.raises(RingCorruptError, match="announced"):
        receiver.receive(1, 10, skip_revoked=False)


def test_memory_that_shrinks_while_it_is_read_is_corruption(
    raw: tuple[socket.socket, SpillSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver = raw
    writable, readable = create_memory()
    os.pwrite(writable, bytes(10), 0)
    socket.send_fds(sender, [struct.pack("<QQ", 1, 10)], [readable])

    def check_then_shrink(descriptor: int, device: int, size: int) -> bool:
        right = is_memory_of(descriptor, device, size)
        os.ftruncate(writable, 3)
        return right

    monkeypatch.setattr("tykpy.ipc.bodies.memfd.is_memory_of", check_then_shrink)
    with pytest.raises(RingCorruptError, match="cut off"):
        receiver.receive(1, 10, skip_revoked=False)
    os.close(writable)
    os.close(readable)


def test_no_shared_memory_fails_only_that_message(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise SegmentError("no shared memory")

    monkeypatch.setattr("tykpy.ipc.bodies.memfd.create_memory", none_left)
    with pytest.raises(SpillError, match="300000 bytes"):
        pair[0].send(1, BIG)


def test_a_full_file_system_fails_only_that_message(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SpillError, match="No space left"):
        pair[0].send(1, BIG)


def test_a_peer_that_takes_nothing_fails_only_that_message(pair: Pair) -> None:
    sender, _ = pair

    def send_for_ever() -> None:
        for seq in itertools.count():
            release(sender.send(seq, b"x"), discard=False)

    with pytest.raises(SpillError, match="cannot carry"):
        send_for_ever()


def test_a_message_written_and_read_in_pieces_is_whole(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:1000], offset))
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read(fd, min(size, 1001), offset))
    sender, receiver = pair
    release(sender.send(1, BIG[:5000]), discard=False)
    assert receiver.receive(1, 5000, skip_revoked=False) == BIG[:5000]
