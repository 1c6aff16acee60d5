"""A storage whose operations are timed, for the broker's metrics."""

from bisect import bisect_left
from collections.abc import Callable
from time import monotonic_ns

from tykpy.ipc.ring.layout import StorageOperation
from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.workers.storage.contract import SharedStorage

Count = Callable[[StorageOperation, int, int], object]
"""Called with an operation, the bucket of its time, and its time in ns."""


class TimedStorage:
    """Passes everything on to another storage."""

    def __init__(self, storage: SharedStorage, count: Count) -> None:
        self._storage = storage
        self._count = count

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds, or for ever if `ttl` is 0 or less."""
        start = monotonic_ns()
        self._storage.store(key, value, ttl)
        self._note(StorageOperation.STORE, monotonic_ns() - start)

    def fetch(self, key: str) -> bytes:
        """Return the stored value, or an empty one if there is none."""
        start = monotonic_ns()
        value = self._storage.fetch(key)
        self._note(StorageOperation.FETCH, monotonic_ns() - start)
        return value

    def check(self) -> None:
        """Try the storage."""
        self._storage.check()

    def close(self) -> None:
        """Close the storage."""
        self._storage.close()

    def _note(self, operation: StorageOperation, duration_ns: int) -> None:
        self._count(operation, bisect_left(BOUNDS_NS, duration_ns), duration_ns)
