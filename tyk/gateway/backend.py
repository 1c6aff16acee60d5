"""What plugins use through `tyk`: storage, events, log and clocks, installed by a worker; stand-ins elsewhere."""

import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from threading import RLock
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from tyk.errors import StoreValueError
from tyk.gateway.commands import Command, Delete, Expire, Get, Increment, Set, SetIfAbsent

PLUGIN_LOGGER: Final = "tykpy.plugin"
"""The logger that `TykGateway.log` writes to outside a worker."""
_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
PURGE_EVERY_STORES: Final = 1_000
"""Expired values are purged once in so many stores."""

Trigger: TypeAlias = Callable[[str, str], None]
"""Takes an event: its name and payload, a string as the plugin gave it or the JSON of its mapping."""
WriteLog: TypeAlias = Callable[[str, int], None]
"""Takes a message and its level, one of `logging`'s."""


class Storage(Protocol):
    """Keeps values under keys, and logs its failures. `store` and `fetch` never raise because of one."""

    def store(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds; 0 and below: for ever."""

    def fetch(self, key: str) -> bytes:
        """Return what was stored; empty where there is nothing."""

    def execute(self, command: Command) -> Any:
        """Carry out a command of `tyk.store` and return its answer. Raises StoreUnavailableError, StoreValueError."""


class _Value(NamedTuple):
    data: bytes
    expires_at: float | None


class MemoryStorage:
    """Keeps values with their time to live; usable from several threads and finalizers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `clock` gives seconds, and may be a test's own."""
        self._clock = clock
        self._values: dict[str, _Value] = {}
        self._stores = 0
        self._commands = RLock()

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

    def execute(self, command: Command) -> Any:
        """Carry out a command of `tyk.store`, one at a time."""
        with self._commands:
            return self._carry_out(command)

    def _carry_out(self, command: Command) -> Any:
        match command:
            case Get(keys):
                return [self._find(key) for key in keys]
            case Set(values, ttl):
                for key, value in values.items():
                    self.store(key, value, ttl)
                return None
            case SetIfAbsent(key, value, ttl):
                is_new = self._find(key) is None
                if is_new:
                    self.store(key, value, ttl)
                return is_new
            case Delete(keys):
                return sum([self._find(key) is not None and self._values.pop(key, None) is not None for key in keys])
            case Increment(key, amount, ttl):
                return self._increment(key, amount, ttl)
            case Expire(key, ttl):
                found = self._find(key)
                if found is not None:
                    self.store(key, found, ttl)
                return found is not None

    def _find(self, key: str) -> bytes | None:
        value = self._values.get(key)
        return None if value is None or _expired(value, self._clock()) else value.data

    def _increment(self, key: str, amount: int, ttl: float) -> int:
        found = self._find(key)
        if found is None:
            self.store(key, b"%d" % amount, ttl)
            return amount
        total = added(key, found, amount)
        self._values[key] = self._values[key]._replace(data=b"%d" % total)
        return total

    def _purge(self, now: float) -> None:
        for key, value in self._values.copy().items():
            if _expired(value, now):
                self._drop(key, now)

    def _drop(self, key: str, now: float) -> None:
        value = self._values.pop(key, None)
        if value is not None and not _expired(value, now):
            self._values.setdefault(key, value)  # another thread has just stored it


def added(key: str, value: bytes, amount: int) -> int:
    """Return the sum; raises StoreValueError if `value` is no integer in decimal, or the sum has more than 64 bits."""
    if _INTEGER.fullmatch(value) and -(2**63) <= (total := int(value) + amount) < 2**63:
        return total
    raise no_counter(key)


def no_counter(key: str) -> StoreValueError:
    """Return the error for a value that cannot be incremented."""
    return StoreValueError(f"the value of {key!r:.100} is no integer of 64 bits, or would not be one any more")


def _expired(value: _Value, now: float) -> bool:
    return value.expires_at is not None and value.expires_at <= now


def _ignore(name: str, payload: str) -> None:
    """Ignore an event: outside a worker it has no handlers."""


def _log(message: str, level: int) -> None:
    logging.getLogger(PLUGIN_LOGGER).log(level, "%s", message)


class Reads(Protocol):
    """Stands between a recorded or replayed call and what it reads besides its arguments."""

    def time(self, now: Callable[[], float]) -> float:
        """Return the time since the epoch, in seconds; `now` says what it is."""

    def time_left(self, seconds: float) -> float:
        """Return the time that the call has left, in seconds, which is `seconds` now."""

    def random(self) -> Random:
        """Return the call's own random numbers."""

    def storage(self, storage: Storage) -> Storage:
        """Return a storage that shows the call the values that it read, or is to read."""


READS: Final[ContextVar[Reads | None]] = ContextVar("READS", default=None)
"""Set for a call that is recorded or replayed."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What `tyk` works with."""

    storage: Storage = field(default_factory=MemoryStorage)
    trigger: Trigger = _ignore
    log: WriteLog = _log
    clock: Callable[[], float] = time.monotonic
    """Seconds, for the results that `tyk.cache` keeps in this process."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since the epoch, for `tyk.time`."""


_current = Backend()


def current() -> Backend:
    """Return the backend in use."""
    return _current


def storage() -> Storage:
    """Return the storage as the running call is to see it."""
    reads = READS.get()
    return _current.storage if reads is None else reads.storage(_current.storage)


def install(
    storage: Storage | None = None,
    trigger: Trigger | None = None,
    log: WriteLog | None = None,
    clock: Callable[[], float] | None = None,
    wall_clock: Callable[[], float] | None = None,
) -> Backend:
    """Put other parts in place of those in use, and return the previous backend; None leaves a part as it is."""
    previous = current()
    restore(
        Backend(
            previous.storage if storage is None else storage,
            trigger or previous.trigger,
            log or previous.log,
            clock or previous.clock,
            wall_clock or previous.wall_clock,
        )
    )
    return previous


def restore(backend: Backend) -> None:
    """Use `backend`, e.g. the one that `install` returned."""
    global _current
    _current = backend
