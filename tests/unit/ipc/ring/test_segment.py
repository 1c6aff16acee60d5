"""Shared memory: nameless, reserved, read-only where it should be."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.ipc.errors import SegmentError
from tykpy.ipc.ring.layout import HEADER_SIZE, TAIL, Identity, Role
from tykpy.ipc.ring.segment import Segment, create_memory, create_segment, is_memory_of

IDENTITY = Identity(Role.A, epoch=1, slot=2, generation=3, capacity=8192, max_record=1024, max_message=4096)


@pytest.fixture
def descriptors() -> Iterator[tuple[int, int]]:
    made = create_segment(IDENTITY)
    yield made
    for descriptor in made:
        os.close(descriptor)


def test_memory_has_no_name_and_two_descriptors() -> None:
    writable, readable = create_memory()
    try:
        assert os.readlink(f"/proc/self/fd/{writable}").endswith(" (deleted)")
        os.pwrite(writable, b"seen", 0)
        assert os.pread(readable, 4, 0) == b"seen"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(readable, b"no", 0)
        assert os.fstat(writable).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(writable)
        assert not os.get_inheritable(readable)
    finally:
        os.close(writable)
        os.close(readable)


def test_every_page_is_reserved_when_a_segment_is_made(descriptors: tuple[int, int]) -> None:
    status = os.fstat(descriptors[0])
    assert status.st_size == HEADER_SIZE + IDENTITY.capacity
    assert status.st_blocks * 512 >= status.st_size


def test_too_little_memory_is_an_error_that_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(SegmentError, match="bytes of shared memory"):
        create_segment(IDENTITY)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_what_one_side_stores_the_other_side_sees(descriptors: tuple[int, int]) -> None:
    writer, reader = Segment.map(descriptors[0], writable=True), Segment.map(descriptors[1], writable=False)
    try:
        writer.words[TAIL] = 2**64 - 1
        assert reader.words[TAIL] == 2**64 - 1
        assert reader.identity == IDENTITY
    finally:
        writer.close()
        reader.close()


def test_the_readers_mapping_refuses_every_write(descriptors: tuple[int, int]) -> None:
    reader = Segment.map(descriptors[1], writable=False)
    try:
        with pytest.raises(TypeError):
            reader.words[TAIL] = 1
        with pytest.raises(TypeError):
            reader.memory[0] = 1
    finally:
        reader.close()


def test_the_readers_descriptor_cannot_be_mapped_for_writing(descriptors: tuple[int, int]) -> None:
    with pytest.raises(SegmentError, match="cannot map"):
        Segment.map(descriptors[1], writable=True)


def test_a_segment_of_another_size_than_it_says_is_refused() -> None:
    writable, readable = create_memory()
    os.pwrite(writable, IDENTITY.pack(), 0)
    with pytest.raises(SegmentError, match="where the header says"):
        Segment.map(readable, writable=False)
    os.close(writable)
    os.close(readable)


def test_a_worker_cannot_shrink_a_ring_under_the_brokers_mapping(descriptors: tuple[int, int]) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(descriptors[0], 0)


def test_no_descriptors_left_is_an_error_that_leaves_nothing() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = sorted(os.listdir("/proc/self/fd"))
    lowest = os.dup(0)
    os.close(lowest)
    for limit in (lowest, lowest + 1):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            with pytest.raises(SegmentError, match="no shared memory"):
                create_memory()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_damaged_header_is_refused(descriptors: tuple[int, int]) -> None:
    os.pwrite(descriptors[0], b"\xff", 20)
    with pytest.raises(SegmentError, match="CRC"):
        Segment.map(descriptors[1], writable=False)


def test_only_shared_memory_of_the_right_size_is_taken_for_it(descriptors: tuple[int, int], tmp_path: Path) -> None:
    size = HEADER_SIZE + IDENTITY.capacity
    device = os.fstat(descriptors[0]).st_dev
    assert is_memory_of(descriptors[1], device, size)
    assert not is_memory_of(descriptors[1], device, size - 1)
    reader, writer = os.pipe()
    assert not is_memory_of(reader, device, 0)
    os.close(reader)
    os.close(writer)
    other = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    assert not is_memory_of(other, device, 0)
    os.close(other)
