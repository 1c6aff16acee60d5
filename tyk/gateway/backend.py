"""Where `TykGateway`'s calls end: three seams, filled by a worker, or by stand-ins in a plugin's own tests."""

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from tyk.gateway.memory import MemoryStorage

PLUGIN_LOGGER: Final = "tykpy.plugin"
"""The logger that `TykGateway.log` writes to."""

MAX_REMEMBERED_EVENTS: Final = 1_000
"""Outside a worker nobody takes the events away: the newest ones are kept."""


class Storage(Protocol):
    """Keeps values under keys. A failure is the storage's to log: neither call raises because of one."""

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

    def __init__(self) -> None:
        """Find the logger; what it does with a message is the process's own setting."""
        self._logger = logging.getLogger(PLUGIN_LOGGER)

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
    """Put other parts in place of those in use, and return what was in use; None leaves a part as it is."""
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
