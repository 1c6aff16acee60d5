"""Log repeated messages once a minute, with the number of repetitions."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from tykpy.telemetry.log import run_later
from tykpy.telemetry.records import ExceptionInfo, shorten

REPEAT_SECONDS: Final = 60.0
MAX_KEYS: Final = 100
"""Most keys per `REPEAT_SECONDS`; they contain names from outside, which must not fill the memory or the log."""
MAX_KEY: Final = 256
MAX_MESSAGE: Final = 2048
"""Longest key and longest message, in characters; longer ones are cut, so that they fill neither memory nor log."""
MAX_REPEATED: Final = 256
"""Longest part of a message that is repeated with the count, in characters."""
OTHERS: Final = "messages of other kinds"


class Logger(Protocol):
    """Logger that a `QuietLog` writes to."""

    def log(self, level: int, message: str, /, *args: object, exc_info: ExceptionInfo | None = None) -> None:
        """Write a record."""


class _Told:
    """A logged message, and the number of times it was suppressed since."""

    __slots__ = ("level", "message", "more", "since")

    def __init__(self, level: int, message: str, since: float) -> None:
        self.level = level
        self.message = message
        self.since = since
        self.more = 0


class QuietLog:
    """Log the first message for a key, and a minute later the number of further ones.

    Usable from all threads, without a lock: two messages at the same moment may both be logged.
    """

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `logger`; `clock` returns seconds."""
        self._logger = logger
        self._clock = clock
        self._told: dict[str, _Told] = {}

    def log(self, level: int, key: str, message: str, exc_info: ExceptionInfo | None = None) -> None:
        """Log `message` unless one for `key` was logged within the last minute."""
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
        """Forget a key, so that its next message is logged; return whether the key was known."""
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
