"""`open_storage`: the right store, opened by its first use and no earlier."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tyk.errors import StoreUnavailableError
from tyk.gateway.backend import MemoryStorage
from tyk.gateway.commands import Get
from tykpy.redisclient.errors import RedisURLError
from tykpy.workers.storage import open_storage
from tykpy.workers.storage.lazy import LazyStorage

IDLE_WORKER = """
import sys
from pathlib import Path
from tykpy.workers.storage import open_storage
storages = [open_storage(None, Path(sys.argv[1])), open_storage("redis://localhost:1", Path(sys.argv[1]))]
loaded = {"redis", "sqlite3"} & set(sys.modules)
assert not loaded, loaded
storages[0].store("key", b"value", 0)
assert "redis" not in sys.modules
"""


class Closable(MemoryStorage):
    """Counts how often it is closed."""

    closed = 0

    def check(self) -> None:
        """Not looked at."""

    def close(self) -> None:
        """Count."""
        self.closed += 1


def test_nothing_is_imported_or_opened_before_the_first_use(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", IDLE_WORKER, tmp_path], check=True)


def test_without_a_url_it_is_a_file_in_the_runtime_folder(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    storage.store("key", b"value", 0)
    assert storage.fetch("key") == b"value"
    assert (tmp_path / "storage.sqlite3").exists()
    storage.close()


def test_a_wrong_url_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RedisURLError):
        open_storage("redis://host:port", tmp_path)


def test_with_a_url_it_is_redis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = open_storage(f"unix://{tmp_path}/nobody.sock", tmp_path)
    assert storage.fetch("key") == b""
    assert "Redis at unix:///" in caplog.text
    storage.close()


def test_many_threads_use_the_same_one() -> None:
    opened: list[Closable] = []
    together = threading.Barrier(8)

    def opener() -> Closable:
        opened.append(Closable())
        return opened[-1]

    storage = LazyStorage(opener)

    def use() -> None:
        together.wait()
        storage.store("key", b"value", 0)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not one.closed for one in opened) == 1
    storage.close()
    assert all(one.closed == 1 for one in opened)


def test_closing_an_unused_storage_does_not_open_it() -> None:
    def opener() -> Closable:
        raise AssertionError("opened")

    LazyStorage(opener).close()


def test_after_its_end_calls_are_logged_and_answered_empty(caplog: pytest.LogCaptureFixture) -> None:
    storage = LazyStorage(Closable)
    storage.store("key", b"value", 0)
    storage.close()
    storage.store("key", b"value", 0)
    assert storage.fetch("key") == b""
    with pytest.raises(StoreUnavailableError, match="the worker ends"):
        storage.execute(Get(("key",)))
    assert caplog.messages == ["storage is closed: the worker ends; store_data is lost"]
    storage.close()
