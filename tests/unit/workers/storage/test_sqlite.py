"""The SQLite store by itself: its file, its connections, and files that fail."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.peers.redis_server import wait_until
from tyk.errors import StoreUnavailableError
from tyk.gateway.commands import Get, Increment, Set
from tyk.gateway.testing import ManualClock
from tykpy.workers.storage import sqlite
from tykpy.workers.storage.sqlite import FILE_NAME, PURGE_EVERY_STORES, PURGE_ROWS, WAL_LIMIT_BYTES, SQLiteStorage


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def storage(tmp_path: Path, clock: ManualClock) -> Iterator[SQLiteStorage]:
    storage = SQLiteStorage(tmp_path, clock)
    yield storage
    storage.close()


def rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        return int(connection.execute("SELECT count(*) FROM data").fetchone()[0])


def wal_size(folder: Path) -> int:
    return (folder / f"{FILE_NAME}-wal").stat().st_size


def in_thread(function: object) -> None:
    thread = threading.Thread(target=function)  # type: ignore[arg-type]
    thread.start()
    thread.join()


def test_the_file_is_private_and_in_wal_mode(storage: SQLiteStorage, tmp_path: Path) -> None:
    storage.store("key", b"value", 0)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT key FROM data").fetchone() == (b"coprocess-data:key",)


def test_the_file_outlives_its_storage(storage: SQLiteStorage, tmp_path: Path, clock: ManualClock) -> None:
    storage.store("key", b"value", 0)
    storage.close()
    again = SQLiteStorage(tmp_path, clock)
    assert again.fetch("key") == b"value"
    again.close()


def test_expired_values_are_not_returned(storage: SQLiteStorage, clock: ManualClock) -> None:
    storage.store("key", b"value", 10)
    clock.advance(9.99)
    assert storage.fetch("key") == b"value"
    clock.advance(0.01)
    assert storage.fetch("key") == b""


def test_expired_values_are_purged_now_and_then(storage: SQLiteStorage, clock: ManualClock, tmp_path: Path) -> None:
    storage.store("goes", b"value", 1)
    storage.store("stays", b"value", 0)
    clock.advance(1)
    for _ in range(PURGE_EVERY_STORES - 2):
        storage.store("other", b"value", 0)
    assert rows(tmp_path) == 3
    storage.store("other", b"value", 0)
    assert rows(tmp_path) == 2
    assert storage.fetch("stays") == b"value"


def test_workers_that_store_once_purge_too(clock: ManualClock, tmp_path: Path) -> None:
    for _ in range(5):
        storage = SQLiteStorage(tmp_path, clock)
        storage.store(str(clock()), b"value", 1)
        storage.close()
        clock.advance(1)
    assert rows(tmp_path) == 1


def test_expired_values_are_purged_when_the_clock_was_set_back(clock: ManualClock, tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path, clock)
    storage.store("goes", b"value", 1)
    clock.advance(10)
    storage.store("key", b"value", 0)
    clock.advance(-5)
    for _ in range(PURGE_EVERY_STORES):
        storage.store("key", b"value", 0)
    assert rows(tmp_path) == 1
    storage.close()


def test_the_wal_is_begun_anew_when_it_is_large(storage: SQLiteStorage, tmp_path: Path) -> None:
    for number in range(60):
        storage.store(str(number), bytes(1024 * 1024), 0)
        assert wal_size(tmp_path) <= WAL_LIMIT_BYTES + 2 * 1024 * 1024
    assert rows(tmp_path) == 60


def test_a_reader_that_stands_still_costs_stores_a_moment_only(
    storage: SQLiteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage.store("first", b"value", 0)
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM data").fetchone()
        for number in range(30):
            storage.store(str(number), bytes(1024 * 1024), 0)
        assert wal_size(tmp_path) > WAL_LIMIT_BYTES
        reader.execute("ROLLBACK")
    storage._next_checkpoint_s = 0.0
    storage.store("now", b"value", 0)
    storage.store("and then", b"value", 0)
    assert wal_size(tmp_path) <= WAL_LIMIT_BYTES
    assert caplog.messages == []


def test_many_expired_values_are_purged_in_portions(storage: SQLiteStorage, clock: ManualClock, tmp_path: Path) -> None:
    storage.store("first", b"value", 1)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        old = [(str(number).encode(), b"", 1) for number in range(PURGE_ROWS)]
        connection.executemany("INSERT INTO data VALUES (?, ?, ?)", old)
    clock.advance(1)
    again = SQLiteStorage(tmp_path, clock)
    again.store("key", b"value", 0)
    assert rows(tmp_path) == 2
    again.store("key", b"value", 0)
    assert rows(tmp_path) == 1
    again.close()


def test_connections_of_ended_threads_are_closed(storage: SQLiteStorage) -> None:
    for _ in range(5):
        in_thread(lambda: storage.store("key", b"value", 0))
    assert len(storage._connections._by_thread) == 1
    assert storage.fetch("key") == b"value"
    assert list(storage._connections._by_thread) == [threading.current_thread()]


def test_a_thread_that_comes_too_late_opens_nothing(storage: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    storage.store("key", b"value", 0)
    storage.close()
    assert storage.fetch("key") == b""
    in_thread(lambda: storage.store("key", b"value", 0))
    assert storage._connections._by_thread == {}
    assert "the storage is closed" in caplog.text


def test_a_file_that_is_no_database(storage: SQLiteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"This is not a database. " * 1000)
    for _ in range(3):
        storage.store("key", b"value", 0)
        assert storage.fetch("key") == b""
    assert len(caplog.messages) == 1
    assert f"storage file {tmp_path / FILE_NAME}: DatabaseError: file is not a database" in caplog.text
    (tmp_path / FILE_NAME).unlink()
    storage.store("key", b"value", 0)
    assert storage.fetch("key") == b"value"


def test_a_file_damaged_while_in_use(storage: SQLiteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        storage.store(str(number), b"v" * 1000, 0)
    storage.close()
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:4096] + b"\xa5" * (path.stat().st_size - 4096))
    again = SQLiteStorage(tmp_path)
    assert again.fetch("1") == b""
    again.store("1", b"value", 0)
    again.close()
    assert len(caplog.messages) == 1
    assert "malformed" in caplog.text


def test_a_folder_that_does_not_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = SQLiteStorage(tmp_path / "later")
    storage.store("key", b"value", 0)
    assert storage.fetch("key") == b""
    assert "FileNotFoundError" in caplog.messages[0]
    (tmp_path / "later").mkdir()
    storage.store("key", b"value", 0)
    assert storage.fetch("key") == b"value"
    storage.close()


def test_calls_give_up_waiting_for_a_stuck_writer(
    storage: SQLiteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage.store("key", b"old", 0)
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as stuck:
        stuck.execute("BEGIN IMMEDIATE")
        storage.store("key", b"new", 0)
        assert storage.fetch("key") == b"old"
        stuck.execute("ROLLBACK")
    assert "database is locked; store_data is lost" in caplog.messages[0]
    storage.store("key", b"new", 0)
    assert storage.fetch("key") == b"new"


def test_a_file_that_somebody_else_prepares_is_waited_for(
    storage: SQLiteStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[float] = []
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def wait(seconds: float) -> None:
            waited.append(seconds)
            other.close()

        monkeypatch.setattr(sqlite, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=wait))
        storage.store("key", b"value", 0)
    assert storage.fetch("key") == b"value"
    assert waited == [sqlite.OPEN_RETRY_S]
    assert caplog.messages == []


def test_a_connection_that_failed_is_not_used_again(storage: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    storage.store("key", b"value", 0)
    storage._connections.get().close()
    assert storage.fetch("key") == b""
    assert storage.fetch("key") == b"value"
    assert len(caplog.messages) == 1


def test_many_threads_open_the_new_file_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = SQLiteStorage(tmp_path)
    together = threading.Barrier(16)

    def store(name: str) -> None:
        together.wait()
        storage.store(name, name.encode(), 0)

    threads = [threading.Thread(target=store, args=(f"t{index}",)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "the threads end")
    assert caplog.messages == []
    assert [storage.fetch(f"t{index}") for index in range(16)] == [b"t%d" % index for index in range(16)]
    storage.close()


def test_a_file_that_fails_is_an_error_of_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).mkdir()
    storage = SQLiteStorage(tmp_path)
    for command in (Get(("key",)), Increment("key", 1)):
        with pytest.raises(StoreUnavailableError, match=r"storage file .* unable to open"):
            storage.execute(command)
    assert len(caplog.messages) == 1
    assert "tyk.store.get fails" in caplog.messages[0]
    (tmp_path / FILE_NAME).rmdir()
    assert storage.execute(Increment("key", 1)) == 1
    storage.close()


def test_commands_of_the_store_purge_too(storage: SQLiteStorage, clock: ManualClock, tmp_path: Path) -> None:
    storage.execute(Set({str(number): b"" for number in range(100)}, ttl=1))
    clock.advance(2)
    for _ in range(PURGE_EVERY_STORES + 1):
        storage.execute(Increment("n", 1))
    assert rows(tmp_path) == 1
