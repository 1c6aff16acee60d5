"""What a storage does about failures: say so now and then, and stop asking for a while."""

import threading
import time
from collections.abc import Callable
from typing import Final

from telemetry.log import Log

LOG_EVERY_S: Final = 10.0
"""Failures come as often as dispatches do; one line in so many seconds tells as much."""

_logger: Final = Log("tykpy.storage")


class FailureLog:
    """Logs the first failure at once, and those that follow as a number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing to report; `clock` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._silent_until_s = 0.0
        self._unreported = 0
        self._failures = 0
        self._reported = False

    def failed(self, message: str) -> None:
        """Log `message` as an error, unless one was logged a short while ago."""
        with self._lock:
            self._failures += 1
            now = self._clock()
            if self._silent_until_s > now:
                self._unreported += 1
                return
            self._silent_until_s = now + LOG_EVERY_S
            unreported, self._unreported = self._unreported, 0
            self._reported = True
        _logger.error("%s%s", message, f" ({unreported} failures since the last report)" if unreported else "")

    def recovered(self, message: str) -> None:
        """Log `message` if a failure was logged before, with how many there were."""
        if not self._failures:
            return
        with self._lock:
            failures, self._failures = self._failures, 0
            reported, self._reported = self._reported, False
            self._unreported = 0
        if reported:
            _logger.warning("%s (after %d failed tries)", message, failures)


class Breaker:
    """Decides whether a peer that failed is asked again: once per back-off, which doubles up to a limit."""

    def __init__(self, first_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start closed (everybody may ask); the back-off goes from `first_s` to `longest_s` seconds."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._clock = clock
        self._lock = threading.Lock()
        self._is_open = False
        self._probing = False
        self._backoff_s = first_s
        self._retry_at_s = 0.0

    def allows(self) -> bool:
        """Return whether to ask now; while open, one caller at a time is let through to find out."""
        if not self._is_open:
            return True
        with self._lock:
            if self._probing or self._clock() < self._retry_at_s:
                return False
            self._probing = True
            return True

    def failed(self) -> float:
        """Open, or stay open for longer; return for how many seconds from now."""
        with self._lock:
            now = self._clock()
            if self._is_open and not self._probing:
                # A call that began before the breaker opened: it says nothing new.
                return max(0.0, self._retry_at_s - now)
            self._backoff_s = min(self._backoff_s * 2, self._longest_s) if self._is_open else self._first_s
            self._is_open, self._probing = True, False
            self._retry_at_s = now + self._backoff_s
            return self._backoff_s

    def succeeded(self) -> None:
        """Close."""
        if self._is_open:
            with self._lock:
                self._is_open = self._probing = False
