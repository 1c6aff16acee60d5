"""Logs what repeats once a minute, and how often it was repeated."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from tykpy.telemetry.log import run_later
from tykpy.telemetry.records import ExceptionInfo, shorten

REPEAT_SECONDS: Final = 60.0
MAX_KEYS: Final = 100
"""Different messages per `REPEAT_SECONDS`; the names in them come from outside, and must not fill memory or log."""
MAX_KEY: Final = 256
MAX_MESSAGE: Final = 2048
"""Characters of a key, and of a message; what is longer is cut, for the same reason."""
MAX_REPEATED: Final = 256
"""Characters of a message that are repeated with the count."""
OTHERS: Final = "messages of other kinds"


class Logger(Protocol):
    """What a `QuietLog` writes to."""

    def log(self, level: int, message: str, /, *args: object, exc_info: ExceptionInfo | None = None) -> None:
        """Write a record."""


class _Told:
    """A message that was logged, and how often it was not logged since."""

    __slots__ = ("level", "message", "more", "since")

    def __init__(self, level: int, message: str, since: float) -> None:
        self.level = level
        self.message = message
        self.since = since
        self.more = 0


class QuietLog:
    """Logs the first message of a key, and a minute later how many more there were.

    For all threads, without a lock: two that begin in the same moment may both be logged.
    """

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._logger = logger
        self._clock = clock
        self._told: dict[str, _Told] = {}

    def log(self, level: int, key: str, message: str, exc_info: ExceptionInfo | None = None) -> None:
        """Log `message`, unless there was one for `key` within the last minute."""
        key, now = key[:MAX_KEY], self._clock()
        told = self._told.get(key)
        if told is not None and now < told.since + REPEAT_SECONDS:
            self._count(key, told, now)
            return
        if told is not None:
            self._report(key, told)
        elif not self._has_room(now):
            self._count(OTHERS, self._told.setdefault(OTHERS, _Told(level, OTHERS, now)), now)
            return
        self._told[key] = _Told(level, shorten(message, MAX_REPEATED), now)
        self._logger.log(level, "%s", shorten(message, MAX_MESSAGE), exc_info=exc_info)

    def forget(self, key: str) -> bool:
        """Start afresh with a key; says whether there was anything to forget."""
        return self._told.pop(key[:MAX_KEY], None) is not None

    def _count(self, key: str, told: _Told, now: float) -> None:
        told.more += 1
        if told.more == 1:
            run_later(told.since + REPEAT_SECONDS - now, partial(self._report, key, told))

    def _report(self, key: str, told: _Told) -> None:
        if self._told.get(key) is told:
            del self._told[key]
            if told.more:
                text = f"{told.message} ... {told.more:,} more in {self._clock() - told.since:.0f} s"
                self._logger.log(told.level, "%s", text)

    def _has_room(self, now: float) -> bool:
        if len(self._told) < MAX_KEYS:
            return True
        for key, told in self._told.copy().items():
            if now >= told.since + REPEAT_SECONDS:
                self._report(key, told)
        return len(self._told) < MAX_KEYS
