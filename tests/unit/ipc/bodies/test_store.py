"""The store of big requests: bodies arrive whole, their places are used again, and idle memory goes back."""

import os
from collections.abc import Iterator

import pytest

from tykpy.ipc.bodies.store import BodyReader, BodyStore, StoredBody, body_bytes
from tykpy.ipc.errors import RingCorruptError

KIB = 1024
MIB = 1024 * KIB
CAPACITY = 4 * MIB


@pytest.fixture
def store() -> Iterator[BodyStore]:
    made = BodyStore(CAPACITY)
    yield made
    made.close()


def stored(store: BodyStore, body: bytes) -> StoredBody:
    found = store.put(body)
    assert found is not None
    return found


def test_a_worker_reads_what_was_collected_in_pieces(store: BodyStore) -> None:
    data = os.urandom(100_000)
    body = store.begin(len(data))
    assert body is not None
    for at in range(0, len(data), 16 * KIB):
        assert body.reserve(at + 16 * KIB)
        body.write(memoryview(data)[at : at + 16 * KIB])
    reader = BodyReader(os.dup(store.readable))
    assert reader.read(body.offset, body.size) == data
    assert body_bytes(body) == data
    assert len(body) == len(data)
    reader.close()


def test_bodies_do_not_overlap(store: BodyStore) -> None:
    contents = [bytes([number]) * size for number, size in enumerate([20_000, MIB, 33_000, 1, 70_000, 32 * KIB])]
    bodies = [stored(store, content) for content in contents]
    assert [body_bytes(body) for body in bodies] == contents


def test_the_place_of_a_body_is_free_when_nobody_refers_to_it(store: BodyStore) -> None:
    first = stored(store, bytes(MIB))
    other = stored(store, bytes(MIB))
    offset, kept = first.offset, other.offset
    del first
    again = stored(store, bytes(900 * KIB))
    assert (again.offset, other.offset) == (offset, kept)


def test_many_bodies_one_after_the_other_take_one_place(store: BodyStore) -> None:
    for _ in range(100):
        stored(store, bytes(MIB))
    assert store.reserved == MIB


@pytest.mark.parametrize("size", [CAPACITY + 1, 2**40])
def test_what_is_larger_than_the_store_finds_no_room(store: BodyStore, size: int) -> None:
    assert store.begin(size) is None


def test_a_full_store_has_no_room_until_a_place_is_free(store: BodyStore) -> None:
    bodies = [stored(store, bytes([number]) * MIB) for number in range(4)]
    assert store.put(b"x") is None
    assert [body_bytes(body)[:1] for body in bodies] == [b"\0", b"\1", b"\2", b"\3"]
    del bodies[1]
    assert store.put(bytes(MIB)) is not None


def test_an_announced_body_takes_no_memory(store: BodyStore) -> None:
    announced = [store.begin(MIB) for _ in range(3)]
    assert announced[2] is not None
    assert announced[2].reserve(20_000)
    assert store.reserved == 32 * KIB


def test_memory_that_no_body_used_lately_is_given_back(store: BodyStore) -> None:
    watched = os.dup(store.readable)
    busy, idle = stored(store, bytes(MIB)), stored(store, bytes(MIB))
    store.trim()
    del busy, idle
    store.trim()
    assert store.reserved == 2 * MIB
    stored(store, bytes(MIB))  # of the two free places it takes one
    store.trim()
    assert store.reserved == MIB
    store.trim()
    assert store.reserved == 0
    assert os.fstat(watched).st_blocks == 0
    os.close(watched)
    assert body_bytes(stored(store, b"once more" * 4000)) == b"once more" * 4000


def test_memory_in_use_is_never_given_back(store: BodyStore) -> None:
    body = stored(store, b"x" * MIB)
    for _ in range(3):
        store.trim()
    assert body_bytes(body) == b"x" * MIB


def test_without_memory_nothing_is_stored(store: BodyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert store.put(bytes(MIB)) is None
    body = store.begin(MIB)
    assert body is not None
    assert not body.reserve(1)


def test_a_worker_cannot_write_what_it_reads(store: BodyStore) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(store.readable, b"x", 0)


@pytest.mark.parametrize(
    ("offset", "size"), [(CAPACITY, 1), (CAPACITY - 1, 2), (2**63, 1), (2**63 - 5, 10), (2**64 - 2, 8)]
)
def test_a_place_outside_the_memory_is_corruption(store: BodyStore, offset: int, size: int) -> None:
    reader = BodyReader(os.dup(store.readable))
    with pytest.raises(RingCorruptError, match="outside"):
        reader.read(offset, size)
    with pytest.raises(RingCorruptError, match="outside"):
        reader.borrow(offset, size, CAPACITY)
    reader.close()


def test_a_borrowed_body_is_not_read_after_its_return(store: BodyStore) -> None:
    body = stored(store, b"one" * 10_000)
    reader = BodyReader(os.dup(store.readable))
    borrowed = reader.borrow(body.offset, body.size, CAPACITY)
    assert borrowed.read(3, 6) == b"one"
    borrowed.give_back()
    with pytest.raises(LookupError, match="its body was not used before"):
        borrowed.read(3, 6)
    reader.close()
