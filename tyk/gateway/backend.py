"""What `TykGateway` calls: storage, events and log, installed by a worker; stand-ins elsewhere."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

PLUGIN_LOGGER: Final = "tykpy.plugin"
"""The logger that `TykGateway.log` writes to outside a worker."""
PURGE_EVERY_STORES: Final = 1_000
"""Expired values are purged once in so many stores."""

Trigger: TypeAlias = Callable[[str, str], None]
"""Takes an event: its name and payload, a string as the plugin gave it or the JSON of its mapping."""
WriteLog: TypeAlias = Callable[[str, int], None]
"""Takes a message and its level, one of `logging`'s."""


class Storage(Protocol):
    """Keeps values under keys. It logs its failures: neither call raises because of one."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing."""


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
        """Return what was stored; empty where there is nothing, or it has expired."""
        value = self._values.get(key)
        return b"" if value is None or _expired(value, self._clock()) else value.data

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


def _ignore(name: str, payload: str) -> None:
    """Ignore an event: outside a worker it has no handlers."""


def _log(message: str, level: int) -> None:
    logging.getLogger(PLUGIN_LOGGER).log(level, "%s", message)


@dataclass(frozen=True, slots=True)
class Backend:
    """What `TykGateway` works with."""

    storage: Storage = field(default_factory=MemoryStorage)
    trigger: Trigger = _ignore
    log: WriteLog = _log


_current = Backend()


def current() -> Backend:
    """Return the backend in use."""
    return _current


def install(storage: Storage | None = None, trigger: Trigger | None = None, log: WriteLog | None = None) -> Backend:
    """Put other parts in place of those in use, and return the previous backend; None leaves a part as it is."""
    previous = current()
    new_storage = previous.storage if storage is None else storage
    restore(Backend(new_storage, trigger or previous.trigger, log or previous.log))
    return previous


def restore(backend: Backend) -> None:
    """Use `backend`, e.g. the one that `install` returned."""
    global _current
    _current = backend
