"""A storage that is opened by its first use, so that a worker whose plugins store nothing pays nothing."""

from collections.abc import Callable
from typing import Final

from tykpy.workers.storage.contract import SharedStorage
from tykpy.workers.storage.failures import FailureLog

_KEY: Final = "storage"


class LazyStorage:
    """Stands in for the storage that `opener` opens."""

    def __init__(self, opener: Callable[[], SharedStorage]) -> None:
        """Remember how to open it."""
        self._opener = opener
        self._opened: dict[str, SharedStorage] = {}
        """At most one. Not behind a lock: a finalizer that runs while this is opened may use it, in the same thread."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""
        (self._opened.get(_KEY) or self._open()).store(key, value, ttl)

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing."""
        return (self._opened.get(_KEY) or self._open()).fetch(key)

    def check(self) -> None:
        """Open it and use it."""
        (self._opened.get(_KEY) or self._open()).check()

    def close(self) -> None:
        """Close the storage if it was opened; what comes after is logged and dropped."""
        closed = _ClosedStorage()
        opened = self._opened.setdefault(_KEY, closed)
        self._opened[_KEY] = closed
        opened.close()

    def _open(self) -> SharedStorage:
        opened = self._opener()
        kept = self._opened.setdefault(_KEY, opened)
        if kept is not opened:
            opened.close()  # somebody was faster
        return kept


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
