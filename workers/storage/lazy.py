"""A storage that is opened by its first use, so that a worker whose plugins store nothing pays nothing."""

import threading
from collections.abc import Callable

from workers.storage.contract import Storage
from workers.storage.failures import FailureLog


class LazyStorage:
    """Stands in for the storage that `opener` opens."""

    def __init__(self, opener: Callable[[], Storage]) -> None:
        """Remember how to open it."""
        self._opener = opener
        self._lock = threading.Lock()
        self._opened: Storage | None = None

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""
        (self._opened or self._open()).store(key, value, ttl)

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing."""
        return (self._opened or self._open()).fetch(key)

    def check(self) -> None:
        """Open it and use it."""
        (self._opened or self._open()).check()

    def close(self) -> None:
        """Close the storage if it was opened; what comes after is logged and dropped."""
        with self._lock:
            opened, self._opened = self._opened, _ClosedStorage()
        if opened is not None:
            opened.close()

    def _open(self) -> Storage:
        with self._lock:
            if self._opened is None:
                self._opened = self._opener()
            return self._opened


class _ClosedStorage:
    """What a hook that outlives its worker's end finds."""

    def __init__(self) -> None:
        self._log = FailureLog()

    def store(self, key: str, value: bytes, ttl: float) -> None:
        self._log.failed("storage is closed: the worker ends; store_data is lost")

    def fetch(self, key: str) -> bytes:
        self._log.failed("storage is closed: the worker ends; get_data answers empty")
        return b""

    def check(self) -> None:
        """Say nothing: nobody needs it any more."""

    def close(self) -> None:
        """Stay closed."""
