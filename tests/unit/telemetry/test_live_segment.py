"""Live counters: readable at any moment, replaced by the next broker, believed only as far as they make sense."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest

from tests.support.snapshots import a_snapshot
from tykpy.telemetry import live_segment
from tykpy.telemetry.live_segment import LiveSegment, read_live_snapshot
from tykpy.telemetry.snapshot import Snapshot, encode_snapshot


def write(segment: LiveSegment, taken: int = 10, time_ns: int | None = None) -> Snapshot:
    """Write a snapshot that differs from others in `taken`."""
    snapshot = a_snapshot(taken=taken, time_ns=time.monotonic_ns() if time_ns is None else time_ns)
    segment.write(encode_snapshot(snapshot), snapshot.time_ns)
    return snapshot


def path_of(folder: Path) -> Path:
    return Path("/dev/shm") / live_segment._name_of(folder, os.geteuid()).lstrip("/")


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[LiveSegment]:
    made = LiveSegment.create(tmp_path)
    yield made
    made.close()


def test_written_counters_are_read(segment: LiveSegment, tmp_path: Path) -> None:
    for taken in range(5):
        written = write(segment, taken)
        seen = read_live_snapshot(tmp_path)
        assert seen is not None
        assert (seen.snapshot, seen.is_running) == (written, True)
        assert seen.snapshot.age >= 0


def test_the_text_names_every_counter() -> None:
    assert str(a_snapshot()) == (
        "pid 1, 4 workers ready, 2 dispatches waiting, 3 under way; 10 taken, 7 answered, 1 failed; 5 workers restarted"
    )


def test_only_the_brokers_user_can_read(segment: LiveSegment, tmp_path: Path) -> None:
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600


def test_every_page_is_reserved(segment: LiveSegment, tmp_path: Path) -> None:
    status = path_of(tmp_path).stat()
    assert status.st_blocks * 512 >= status.st_size == live_segment.SIZE


def test_a_write_that_was_cut_short_leaves_the_one_before(segment: LiveSegment, tmp_path: Path) -> None:
    for taken in (1, 2):
        write(segment, taken)
    with path_of(tmp_path).open("r+b") as file:
        file.seek(2 % 2 * live_segment._BLOCK_SIZE + 60)
        file.write(b"\xff" * 8)
    seen = read_live_snapshot(tmp_path)
    assert seen is not None
    assert seen.snapshot.dispatches["taken"] == 1


def test_a_normal_stop_leaves_nothing(tmp_path: Path) -> None:
    LiveSegment.create(tmp_path).close()
    assert not path_of(tmp_path).exists()
    assert read_live_snapshot(tmp_path) is None


def test_a_successor_replaces_the_segment_and_keeps_it(segment: LiveSegment, tmp_path: Path) -> None:
    write(segment)
    successor = LiveSegment.create(tmp_path)
    write(successor, 99)
    write(segment)
    segment.close()
    seen = read_live_snapshot(tmp_path)
    assert seen is not None
    assert seen.snapshot.dispatches["taken"] == 99
    successor.close()


@pytest.fixture
def segment_elsewhere(tmp_path: Path) -> Iterator[LiveSegment]:
    """That of a broker that runs, of another folder."""
    (tmp_path / "elsewhere").mkdir()
    made = LiveSegment.create(tmp_path / "elsewhere")
    yield made
    made.close()


@pytest.fixture
def orphan(tmp_path: Path) -> Path:
    """The segment of a broker that was killed."""
    child = os.fork()
    if child == 0:
        write(LiveSegment.create(tmp_path))
        os._exit(0)
    os.waitpid(child, 0)
    return path_of(tmp_path)


def test_counters_of_a_killed_broker_say_so(orphan: Path, tmp_path: Path) -> None:
    seen = read_live_snapshot(tmp_path)
    assert seen is not None
    assert not seen.is_running
    orphan.unlink()


def test_brokers_of_other_folders_remove_old_orphans_only(
    orphan: Path, segment_elsewhere: LiveSegment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(segment_elsewhere, time_ns=0)
    (tmp_path / "next").mkdir()
    LiveSegment.create(tmp_path / "next").close()
    assert orphan.exists()
    monkeypatch.setattr(live_segment, "ORPHAN_SECONDS", 0.0)
    LiveSegment.create(tmp_path / "next").close()
    assert not orphan.exists()
    assert path_of(tmp_path / "elsewhere").exists()


def test_a_broker_that_was_killed_at_once_is_no_orphan_for_ever(orphan: Path, tmp_path: Path) -> None:
    orphan.write_bytes(bytes(live_segment.SIZE))
    (tmp_path / "next").mkdir()
    LiveSegment.create(tmp_path / "next").close()
    assert not orphan.exists()


def cut_off(path: Path) -> None:
    os.truncate(path, 100)


def opened_to_others(path: Path) -> None:
    path.chmod(0o644)


def overwritten(path: Path) -> None:
    path.write_bytes(os.urandom(live_segment.SIZE))


def emptied(path: Path) -> None:
    path.write_bytes(bytes(live_segment.SIZE))


@pytest.mark.parametrize("damage", [cut_off, opened_to_others, overwritten, emptied])
def test_a_segment_that_makes_no_sense_is_ignored(
    segment: LiveSegment, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    write(segment)
    damage(path_of(tmp_path))
    assert read_live_snapshot(tmp_path) is None
    # A mapping beyond the end of its file must not be written to.
    os.truncate(path_of(tmp_path), live_segment.SIZE)


def test_counters_from_the_future_are_ignored(segment: LiveSegment, tmp_path: Path) -> None:
    write(segment, time_ns=2**63)
    assert read_live_snapshot(tmp_path) is None


def test_a_segment_of_another_user_is_ignored(segment: LiveSegment, tmp_path: Path) -> None:
    write(segment)
    name = live_segment._name_of(tmp_path, os.geteuid())
    assert live_segment._read(name, os.geteuid()) is not None
    assert live_segment._read(name, os.geteuid() + 1) is None


def test_a_name_that_cannot_be_taken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise posix_ipc.PermissionsError("no permission")

    monkeypatch.setattr(posix_ipc, "SharedMemory", refuse)
    with pytest.raises(OSError, match="cannot create"):
        LiveSegment.create(tmp_path)
