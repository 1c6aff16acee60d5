"""Storage for `store_data` and `get_data`: Redis if a URL is set, otherwise a SQLite file shared by all workers."""

from pathlib import Path

from tykpy.redisclient.address import RedisAddress, parse_redis_url
from tykpy.workers.storage.contract import SharedStorage
from tykpy.workers.storage.failures import Health
from tykpy.workers.storage.lazy import Count, LazyStorage

__all__ = ["SharedStorage", "open_storage"]


def open_storage(
    redis_url: str | None, runtime_dir: Path, health: Health | None = None, count: Count | None = None
) -> SharedStorage:
    """Return the storage for a worker; nothing is imported, opened or connected before its first use.

    `health` is told whether its calls succeed, `count` how long they take.

    Raises RedisURLError for an invalid URL.
    """
    address = parse_redis_url(redis_url) if redis_url else None
    return LazyStorage(lambda: _open(address, runtime_dir, health), count)


def _open(address: RedisAddress | None, runtime_dir: Path, health: Health | None) -> SharedStorage:
    if address is None:
        from tykpy.workers.storage.sqlite import SQLiteStorage

        return SQLiteStorage(runtime_dir, health=health)
    from tykpy.workers.storage.redis import RedisStorage

    return RedisStorage(address, health=health)
