"""Live counters: readable at any moment, replaced by the next broker, believed only as far as they make sense."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest

from tykpy.telemetry import live_counters
from tykpy.telemetry.live_counters import LiveCounters, LiveSegment, read_live_counters

COUNTERS = LiveCounters(os.getpid(), 0, 10, 7, 1, 2, 3, 4, 5)


def now() -> LiveCounters:
    return COUNTERS._replace(time_ns=time.monotonic_ns())


def path_of(folder: Path) -> Path:
    return Path("/dev/shm") / live_counters._name_of(folder, os.geteuid()).lstrip("/")


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[LiveSegment]:
    made = LiveSegment.create(tmp_path)
    yield made
    made.close()


def test_written_counters_are_read(segment: LiveSegment, tmp_path: Path) -> None:
    for taken in range(5):
        written = now()._replace(taken=taken)
        segment.write(written)
        seen = read_live_counters(tmp_path)
        assert seen is not None
        assert (seen.counters, seen.is_running) == (written, True)
        assert seen.counters.age >= 0


def test_the_text_names_every_counter() -> None:
    assert str(COUNTERS._replace(pid=1)) == (
        "pid 1, 4 workers ready, 2 dispatches waiting, 3 under way; 10 taken, 7 answered, 1 failed; 5 workers restarted"
    )


def test_only_the_brokers_user_can_read(segment: LiveSegment, tmp_path: Path) -> None:
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600


def test_every_page_is_reserved(segment: LiveSegment, tmp_path: Path) -> None:
    status = path_of(tmp_path).stat()
    assert status.st_blocks * 512 >= status.st_size == live_counters.SIZE


def test_a_write_that_was_cut_short_leaves_the_one_before(segment: LiveSegment, tmp_path: Path) -> None:
    for taken in (1, 2):
        segment.write(now()._replace(taken=taken))
    with path_of(tmp_path).open("r+b") as file:
        file.seek(2 % 2 * 4096 + 40)
        file.write(b"\xff" * 8)
    seen = read_live_counters(tmp_path)
    assert seen is not None
    assert seen.counters.taken == 1


def test_a_normal_stop_leaves_nothing(tmp_path: Path) -> None:
    LiveSegment.create(tmp_path).close()
    assert not path_of(tmp_path).exists()
    assert read_live_counters(tmp_path) is None


def test_a_successor_replaces_the_segment_and_keeps_it(segment: LiveSegment, tmp_path: Path) -> None:
    segment.write(now())
    successor = LiveSegment.create(tmp_path)
    successor.write(now()._replace(taken=99))
    segment.write(now())
    segment.close()
    seen = read_live_counters(tmp_path)
    assert seen is not None
    assert seen.counters.taken == 99
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
        LiveSegment.create(tmp_path).write(now())
        os._exit(0)
    os.waitpid(child, 0)
    return path_of(tmp_path)


def test_counters_of_a_killed_broker_say_so(orphan: Path, tmp_path: Path) -> None:
    seen = read_live_counters(tmp_path)
    assert seen is not None
    assert not seen.is_running
    orphan.unlink()


def test_brokers_of_other_folders_remove_old_orphans_only(
    orphan: Path, segment_elsewhere: LiveSegment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_elsewhere.write(now()._replace(time_ns=0))
    (tmp_path / "next").mkdir()
    LiveSegment.create(tmp_path / "next").close()
    assert orphan.exists()
    monkeypatch.setattr(live_counters, "ORPHAN_SECONDS", 0.0)
    LiveSegment.create(tmp_path / "next").close()
    assert not orphan.exists()
    assert path_of(tmp_path / "elsewhere").exists()


def test_a_broker_that_was_killed_at_once_is_no_orphan_for_ever(orphan: Path, tmp_path: Path) -> None:
    orphan.write_bytes(bytes(live_counters.SIZE))
    (tmp_path / "next").mkdir()
    LiveSegment.create(tmp_path / "next").close()
    assert not orphan.exists()


def cut_off(path: Path) -> None:
    os.truncate(path, 100)


def opened_to_others(path: Path) -> None:
    path.chmod(0o644)


def overwritten(path: Path) -> None:
    path.write_bytes(os.urandom(live_counters.SIZE))


def emptied(path: Path) -> None:
    path.write_bytes(bytes(live_counters.SIZE))


@pytest.mark.parametrize("damage", [cut_off, opened_to_others, overwritten, emptied])
def test_a_segment_that_makes_no_sense_is_ignored(
    segment: LiveSegment, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    segment.write(now())
    damage(path_of(tmp_path))
    assert read_live_counters(tmp_path) is None
    # A mapping beyond the end of its file must not be written to.
    os.truncate(path_of(tmp_path), live_counters.SIZE)


def test_counters_from_the_future_are_ignored(segment: LiveSegment, tmp_path: Path) -> None:
    segment.write(COUNTERS._replace(time_ns=2**63))
    assert read_live_counters(tmp_path) is None


def test_a_segment_of_another_user_is_ignored(segment: LiveSegment, tmp_path: Path) -> None:
    segment.write(now())
    name = live_counters._name_of(tmp_path, os.geteuid())
    assert live_counters._read(name, os.geteuid()) is not None
    assert live_counters._read(name, os.geteuid() + 1) is None


def test_a_name_that_cannot_be_taken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise posix_ipc.PermissionsError("no permission")

    monkeypatch.setattr(posix_ipc, "SharedMemory", refuse)
    with pytest.raises(OSError, match="cannot create"):
        LiveSegment.create(tmp_path)
