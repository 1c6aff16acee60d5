"""Bulk memory: where bodies lie, and when their places are free."""

import os
from collections.abc import Iterator

import pytest

from tykpy.ipc.bodies.bulk import BulkReader, BulkWriter
from tykpy.ipc.errors import RingCorruptError
from tykpy.ipc.ring.segment import create_bulk

PAGE = 4096
CAPACITY = 16 * PAGE
Ends = tuple[BulkWriter, BulkReader]


@pytest.fixture
def ends() -> Iterator[Ends]:
    descriptors = create_bulk(CAPACITY)
    writer, reader = BulkWriter(descriptors.writable), BulkReader(descriptors.readable)
    yield writer, reader
    writer.close()
    reader.close()


def put(writer: BulkWriter, body: bytes, position: int, consumed: int = 0) -> int:
    offset = writer.write(body, consumed)
    assert offset is not None
    writer.hold(offset, len(body), position)
    return offset


def test_a_body_is_read_as_it_was_written(ends: Ends) -> None:
    writer, reader = ends
    offset = put(writer, b"body", 0)
    assert reader.read(offset, 4) == b"body"


def test_bodies_in_use_do_not_overlap(ends: Ends) -> None:
    writer, reader = ends
    bodies = [bytes([number]) * 5000 for number in range(5)]
    offsets = [put(writer, body, number * 32) for number, body in enumerate(bodies)]
    assert [reader.read(offset, 5000) for offset in offsets] == bodies
    assert put(writer, b"small", 200, consumed=33) == offsets[0]
    assert put(writer, bytes(5100), 300, consumed=33) == offsets[0] + 64


def test_a_place_is_not_free_before_its_record_was_given_back(ends: Ends) -> None:
    writer, _ = ends
    first = put(writer, b"a" * CAPACITY, 64)
    assert writer.write(b"b", 64) is None
    assert writer.write(b"b", 65) == first


def test_a_body_that_was_dropped_leaves_its_place(ends: Ends) -> None:
    writer, _ = ends
    assert writer.write(bytes(CAPACITY), 0) == 0
    writer.drop(0, CAPACITY)
    assert writer.write(bytes(PAGE), 0) == 0


def test_pages_are_reserved_on_use_and_released_when_idle(ends: Ends) -> None:
    writer, reader = ends
    put(writer, bytes(3 * PAGE), 0)
    assert writer.reserved == 3 * PAGE
    writer.trim(consumed=0)
    assert writer.reserved == 3 * PAGE, "a body lies there"
    writer.trim(consumed=1)
    assert writer.reserved == 0
    assert reader.read(0, PAGE) == bytes(PAGE)


def test_memory_that_was_given_back_is_gone_from_the_machine() -> None:
    descriptors = create_bulk(CAPACITY)
    watched = os.dup(descriptors.readable)
    writer, reader = BulkWriter(descriptors.writable), BulkReader(descriptors.readable)
    put(writer, b"x" * CAPACITY, 0)
    assert os.fstat(watched).st_blocks * 512 == CAPACITY
    writer.trim(consumed=1)
    assert os.fstat(watched).st_blocks == 0
    assert put(writer, b"again", 1) == 0
    assert reader.read(0, 5) == b"again"
    os.close(watched)
    writer.close()
    reader.close()


def test_without_memory_there_is_no_room(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert ends[0].write(b"body", 0) is None


@pytest.mark.parametrize(("offset", "size"), [(CAPACITY, 1), (CAPACITY - 1, 2), (2**63, 1), (2**64 - 2, 8)])
def test_a_place_outside_the_memory_is_corruption(ends: Ends, offset: int, size: int) -> None:
    with pytest.raises(RingCorruptError, match="outside"):
        ends[1].read(offset, size)


def test_the_reader_cannot_lose_its_memory() -> None:
    descriptors = create_bulk(CAPACITY)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptors.writable, 0)
    for descriptor in descriptors:
        os.close(descriptor)
