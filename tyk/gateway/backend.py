"""What `TykGateway` calls: storage, events and log, installed by a worker, or stand-ins in memory elsewhere."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

PLUGIN_LOGGER: Final = "tykpy.plugin"
"""The logger that `TykGateway.log` writes to."""
MAX_REMEMBERED_EVENTS: Final = 1_000
"""Outside a worker nobody collects the events: the newest are kept."""
PURGE_EVERY_STORES: Final = 1_000
"""Expired values are purged once in so many stores."""


class Storage(Protocol):
    """Keeps values under keys. It logs its failures: neither call raises because of one."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing."""


class Events(Protocol):
    """Takes the events that plugins trigger."""

    def trigger(self, name: str, payload: str) -> None:
        """Take one event; `payload` is a string as the plugin gave it, or the JSON of its mapping."""


class Log(Protocol):
    """Takes what plugins log."""

    def log(self, message: str, level: int) -> None:
        """Take one message; `level` is one of `logging`'s."""


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


class TriggeredEvent(NamedTuple):
    """One call of `TykGateway.trigger_event`."""

    name: str
    payload: str


class MemoryEvents:
    """Remembers the newest events."""

    def __init__(self) -> None:
        """Start with none."""
        self.triggered: deque[TriggeredEvent] = deque(maxlen=MAX_REMEMBERED_EVENTS)

    def trigger(self, name: str, payload: str) -> None:
        """Remember one event."""
        self.triggered.append(TriggeredEvent(name, payload))


class LoggerLog:
    """Writes to the `tykpy.plugin` logger."""

    _logger: Final = logging.getLogger(PLUGIN_LOGGER)

    def log(self, message: str, level: int) -> None:
        """Write one message."""
        self._logger.log(level, "%s", message)


@dataclass(frozen=True, slots=True)
class Backend:
    """What `TykGateway` works with."""

    storage: Storage = field(default_factory=MemoryStorage)
    events: Events = field(default_factory=MemoryEvents)
    log: Log = field(default_factory=LoggerLog)


_current = Backend()


def current() -> Backend:
    """Return the backend in use."""
    return _current


def install(storage: Storage | None = None, events: Events | None = None, log: Log | None = None) -> Backend:
    """Put other parts in place of those in use, and return the previous backend; None leaves a part as it is."""
    previous = current()
    restore(
        Backend(
            previous.storage if storage is None else storage,
            previous.events if events is None else events,
            previous.log if log is None else log,
        )
    )
    return previous


def restore(backend: Backend) -> None:
    """Use `backend`, e.g. the one that `install` returned."""
    global _current
    _current = backend
