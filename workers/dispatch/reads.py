"""Record what a call reads through `tyk`, and show it to a call that is replayed.

Of the store, a recording has what each key had when the call used it, not the answers to commands: changed code that
adds 2 to a counter instead of 1 begins at the recorded value, too.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from tyk.errors import StoreUnavailableError, StoreValueError
from tyk.gateway.backend import READS, Storage
from tyk.gateway.commands import Command, Delete, Expire, Get, Increment, Set, SetIfAbsent
from tykpy.ipc.frame import Packed
from tykpy.ipc.reads import MAX_READS, CallReads, StoreRead, add_reads

_MAX_TIMES: Final = 10_000
"""Most readings of a clock in one call."""
_NOTHING: Final = CallReads()
_SEED: Final = 16
"""Bytes."""
_READ: Final = 64
"""Bytes that a reading of the store takes besides key and value, about."""
_UNKNOWN: Final[Any] = object()
"""What a key had before a command that overwrites it."""
_NO_INTEGER: Final = b""
"""Stands for the value of a key that could not be incremented."""


class RecordedReads:
    """Notes what a call reads; usable from several threads."""

    __slots__ = ("_known", "_random", "_size", "_uses", "reads")

    def __init__(self) -> None:
        self.reads = CallReads()
        self._random: Random | None = None
        self._uses: dict[str, int] = {}
        self._known: dict[str, bytes | bool | None] = {}
        """What keys have, as far as the call can know."""
        self._size = 0

    def time(self, now: Callable[[], float]) -> float:
        """Return the time, and note it."""
        time = now()
        if self._has_room(len(self.reads.times) < _MAX_TIMES):
            self.reads.times.append(time)
        return time

    def time_left(self, seconds: float) -> float:
        """Return `seconds`, and note them."""
        if self._has_room(len(self.reads.times_left) < _MAX_TIMES):
            self.reads.times_left.append(None if math.isinf(seconds) else seconds)
        return seconds

    def random(self) -> Random:
        """Return random numbers from a seed that is noted."""
        if self._random is None:
            self.reads.seed = os.urandom(_SEED)
            self._random = _seeded(self.reads.seed)
        return self._random

    def storage(self, storage: Storage) -> Storage:
        """Return a storage that notes what is read from it."""
        return _RecordedStorage(storage, self.use)

    def use(self, key: str, before: Any, after: Any) -> None:
        """Note a use of a key: what it had before, if that is known, and what it has after it."""
        uses, known = self._uses.get(key, 0), self._known.get(key, _UNKNOWN)
        self._uses[key] = uses + 1
        self._known[key] = known if after is True and isinstance(known, bytes) else after
        expected = before is known or before == known or (before is True and isinstance(known, bytes))
        if before is _UNKNOWN or (expected and known is not _UNKNOWN):
            return
        self._size += len(key) + _READ + (len(before) if isinstance(before, bytes) else 0)
        if self._has_room(self._size <= MAX_READS):
            self.reads.store.append(StoreRead(key, uses, before))

    def _has_room(self, there_is: bool) -> bool:
        self.reads.complete &= there_is
        return there_is


def with_reads(answer: Packed, max_size: int) -> Packed:
    """Return the answer of the running call with what it read, if that is recorded; see `add_reads`."""
    recorded = READS.get()
    try:
        if isinstance(recorded, RecordedReads) and recorded.reads != _NOTHING:
            return add_reads(answer, recorded.reads, max_size)
    except (MemoryError, ValueError):
        pass  # the answer is what counts
    return answer


class _RecordedStorage:
    """A storage whose uses are noted."""

    def __init__(self, storage: Storage, use: Callable[[str, Any, Any], None]) -> None:
        self._storage = storage
        self._use = use

    def store(self, key: str, value: bytes, ttl: float) -> None:
        self._storage.store(key, value, ttl)
        self._use(key, _UNKNOWN, value)

    def fetch(self, key: str) -> bytes:
        value = self._storage.fetch(key)
        self._use(key, value or None, value or None)
        return value

    def execute(self, command: Command) -> Any:
        try:
            answer = self._storage.execute(command)
        except StoreUnavailableError:
            for key in _keys(command):
                self._use(key, False, _UNKNOWN)
            raise
        except StoreValueError:
            for key in _keys(command):
                self._use(key, _NO_INTEGER, True)
            raise
        for key, before, after in _told(command, answer):
            self._use(key, before, after)
        return answer


class ReplayedReads:
    """Gives a call what another one has read."""

    def __init__(self, reads: CallReads) -> None:
        self._times = list(reversed(reads.times))
        self._times_left = [math.inf if left is None else left for left in reversed(reads.times_left)]
        self._random = _seeded(reads.seed)
        self._store = {(read.key, read.uses): read.value for read in reads.store}
        self._uses: Counter[str] = Counter()

    def time(self, now: Callable[[], float]) -> float:
        """Return the next recorded time; after the last one, that again."""
        return _next(self._times, now)

    def time_left(self, seconds: float) -> float:
        """Return the next recorded time, or `seconds` if there is none."""
        return _next(self._times_left, lambda: seconds)

    def random(self) -> Random:
        """Return the recorded random numbers; others, but always the same, if the call used none."""
        return self._random

    def storage(self, storage: Storage) -> Storage:
        """Return `storage` with the recorded values in it."""
        return _ReplayedStorage(storage, self.use)

    def use(self, key: str) -> Any:
        """Return what the key is to have for its next use, as in `StoreRead`; `_UNKNOWN`: what it has."""
        uses = self._uses[key]
        self._uses[key] = uses + 1
        return self._store.get((key, uses), _UNKNOWN)


class _ReplayedStorage:
    """A storage in which the keys of a command get their recorded values just before it."""

    def __init__(self, storage: Storage, use: Callable[[str], Any]) -> None:
        self._storage = storage
        self._use = use

    def store(self, key: str, value: bytes, ttl: float) -> None:
        self._use(key)
        self._storage.store(key, value, ttl)

    def fetch(self, key: str) -> bytes:
        self._prepare(key)
        return self._storage.fetch(key)

    def execute(self, command: Command) -> Any:
        works = [self._prepare(key) for key in _keys(command)]
        if not all(works):
            raise StoreUnavailableError("the store did not work when this call was recorded")
        return self._storage.execute(command)

    def _prepare(self, key: str) -> bool:
        """Let the key have its recorded value; return False if the store is not to work."""
        value = self._use(key)
        if value is None:
            self._storage.execute(Delete((key,)))
        elif value is True:
            self._storage.execute(SetIfAbsent(key, _NO_INTEGER))
        elif isinstance(value, bytes):
            self._storage.execute(Set({key: value}))
        return value is not False


def _keys(command: Command) -> tuple[str, ...]:
    match command:
        case Get(keys) | Delete(keys):
            return keys
        case Set(values):
            return tuple(values)
        case _:
            return (command.key,)


def _told(command: Command, answer: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key of a command, what the answer tells of its value before, and what it has after."""
    match command:
        case Get(keys):
            yield from zip(keys, answer, answer, strict=True)
        case Set(values):
            yield from ((key, _UNKNOWN, value) for key, value in values.items())
        case SetIfAbsent(key, value):
            yield (key, None, value) if answer else (key, True, True)
        case Delete(keys):
            # Which of several keys had values, nobody knows.
            yield from ((key, True if number < answer else None, None) for number, key in enumerate(keys))
        case Increment(key, amount):
            yield key, None if answer == amount else b"%d" % (answer - amount), b"%d" % answer
        case Expire(key):
            yield (key, True, True) if answer else (key, None, None)


def _next(values: list[float], otherwise: Callable[[], float]) -> float:
    """Take the last value off a list, unless it is the only one."""
    if not values:
        return otherwise()
    return values.pop() if len(values) > 1 else values[0]


def _seeded(seed: bytes) -> Random:
    return Random(int.from_bytes(seed))
