"""A storage that is opened on first use, so that it costs nothing in a worker whose plugins store nothing.

Its operations are timed, opening included, for the broker's metrics.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, NoReturn

from tyk.errors import StoreUnavailableError
from tyk.gateway.commands import Command, Get
from tykpy.ipc.clock import monotonic_ns
from tykpy.ipc.ring.layout import StorageOperation
from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.workers.storage.contract import SharedStorage
from tykpy.workers.storage.failures import FailureLog

_KEY: Final = "storage"

Count = Callable[[StorageOperation, int, int], object]
"""Called with an operation, the bucket of its time, and its time in ns."""


class LazyStorage:
    """Stands in for the storage that `opener` opens."""

    def __init__(self, opener: Callable[[], SharedStorage], count: Count | None = None) -> None:
        """Remember how to open the storage."""
        self._opener = opener
        self._count = count or (lambda _operation, _bucket, _duration_ns: None)
        self._opened: dict[str, SharedStorage] = {}
        """At most one store. No lock: a finalizer may use the store in the thread that is opening it."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds, or for ever if `ttl` is 0 or less."""
        start = monotonic_ns()
        (self._opened.get(_KEY) or self._open()).store(key, value, ttl)
        self._note(StorageOperation.STORE, monotonic_ns() - start)

    def fetch(self, key: str) -> bytes:
        """Return the stored value, or an empty one if there is none."""
        start = monotonic_ns()
        value = (self._opened.get(_KEY) or self._open()).fetch(key)
        self._note(StorageOperation.FETCH, monotonic_ns() - start)
        return value

    def execute(self, command: Command) -> Any:
        """Carry out a command of `tyk.store`. Raises StoreUnavailableError, StoreValueError."""
        start = monotonic_ns()
        try:
            return (self._opened.get(_KEY) or self._open()).execute(command)
        finally:
            operation = StorageOperation.FETCH if type(command) is Get else StorageOperation.STORE
            self._note(operation, monotonic_ns() - start)

    def check(self) -> None:
        """Open the storage and try it."""
        (self._opened.get(_KEY) or self._open()).check()

    def close(self) -> None:
        """Close the storage if it was opened; later calls are logged and dropped."""
        closed = _ClosedStorage()
        opened = self._opened.setdefault(_KEY, closed)
        self._opened[_KEY] = closed
        opened.close()

    def _note(self, operation: StorageOperation, duration_ns: int) -> None:
        self._count(operation, bisect_left(BOUNDS_NS, duration_ns), duration_ns)

    def _open(self) -> SharedStorage:
        opened = self._opener()
        first = self._opened.setdefault(_KEY, opened)
        if first is not opened:
            opened.close()  # another thread was faster
        return first


class _ClosedStorage:
    """The storage of a hook that still runs after its worker closed the real one."""

    def __init__(self) -> None:
        self._log = FailureLog()

    def store(self, key: str, value: bytes, ttl: float) -> None:
        self._log.failed("storage is closed: the worker ends; store_data is lost")

    def fetch(self, key: str) -> bytes:
        self._log.failed("storage is closed: the worker ends; get_data answers empty")
        return b""

    def execute(self, command: Command) -> NoReturn:
        text = "storage is closed: the worker ends"
        self._log.failed(f"{text}; tyk.store does not work")
        raise StoreUnavailableError(text)

    def check(self) -> None:
        """Do nothing: nobody needs the storage any more."""

    def close(self) -> None:
        """Stay closed."""
