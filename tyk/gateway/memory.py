"""A store in this process's memory: what `TykGateway` uses outside a worker, and plugin tests with it."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

PURGE_EVERY_STORES: Final = 1_000
"""Expired values that nobody asks for are looked for once in so many stores."""


class _Value(NamedTuple):
    data: bytes
    expires_at: float | None


class MemoryStorage:
    """Keeps values with their time to live; usable from several threads and finalizers, so it takes no lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `clock` gives seconds, and may be a test's own."""
        self._clock = clock
        self._values: dict[str, _Value] = {}
        self._stores = 0

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""
        now = self._clock()
        self._values[key] = _Value(value, now + ttl if ttl > 0 else None)
        self._stores += 1
        if self._stores % PURGE_EVERY_STORES == 0:
            self._purge(now)

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing, or its time is over."""
        value = self._values.get(key)
        return b"" if value is None or _expired(value, self._clock()) else value.data

    def __len__(self) -> int:
        """Count the values that are kept, expired ones included until they are purged."""
        return len(self._values)

    def _purge(self, now: float) -> None:
        for key, value in self._values.copy().items():
            if _expired(value, now):
                self._drop(key, now)

    def _drop(self, key: str, now: float) -> None:
        value = self._values.pop(key, None)
        if value is not None and not _expired(value, now):
            self._values.setdefault(key, value)  # another thread has just stored it


def _expired(value: _Value, now: float) -> bool:
    return value.expires_at is not None and value.expires_at <= now
