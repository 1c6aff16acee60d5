"""A log that says a thing once, and then now and then how often it happened again."""

import logging
import time
from collections.abc import Callable
from typing import Final

REPEAT_SECONDS: Final = 60.0
MAX_KEYS: Final = 1_000
"""Different things that are told apart; names come from outside, and must not fill the memory or the log."""
MAX_KEY: Final = 256
MAX_MESSAGE: Final = 2048
"""Characters of a key, and of a message; what is longer is cut, for the same reason."""


class QuietLog:
    """Logs at most one message per key and minute; used by one thread."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._silent: dict[str, tuple[float, int]] = {}
        """By key: until when it is silent, and what was left out meanwhile."""

    def log(self, level: int, key: str, message: str, fault: BaseException | None = None) -> None:
        """Log `message`, with the traceback of a `fault`, unless there was one for `key` within the last minute."""
        key = key[:MAX_KEY]
        now = self._clock()
        until, left_out = self._silent.get(key, (0.0, 0))
        if now < until:
            self._silent[key] = until, left_out + 1
            return
        if key not in self._silent and not self._has_room(now):
            return
        self._silent[key] = now + REPEAT_SECONDS, 0
        more = f" ({left_out} times more since the last report)" if left_out else ""
        self._logger.log(level, "%s%s", message[:MAX_MESSAGE], more, exc_info=fault)

    def forget(self, key: str) -> bool:
        """Start afresh with a key; says whether there was anything to forget."""
        return self._silent.pop(key[:MAX_KEY], None) is not None

    def _has_room(self, now: float) -> bool:
        if len(self._silent) >= MAX_KEYS:
            self._silent = {key: value for key, value in self._silent.items() if value[0] > now}
        return len(self._silent) < MAX_KEYS
