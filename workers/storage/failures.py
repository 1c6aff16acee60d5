"""What a storage does about failures: say so now and then, and stop asking for a while."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tykpy.ipc.ring.layout import StorageState
from tykpy.telemetry.log import Log

LOG_EVERY_S: Final = 10.0
"""Failures come as often as dispatches do; one line in so many seconds tells as much."""

_logger: Final = Log("tykpy.storage")


class Health:
    """How a storage does, shown where the broker looks. For all threads, without a lock: a count may be missed."""

    def __init__(self, show: Callable[[StorageState, int], object] = lambda _state, _errors: None) -> None:
        """`show` is called with the state and the number of errors when one of them changes."""
        self._show = show
        self._state = StorageState.UNUSED
        self._errors = 0

    def works(self) -> None:
        """Note that a call has succeeded."""
        if self._state is not StorageState.WORKS:
            self._note(StorageState.WORKS, 0)

    def fails(self) -> None:
        """Note that a call has failed, as the next one would."""
        self._note(StorageState.FAILS, 1)

    def refused(self) -> None:
        """Note that one call has failed, and others would not."""
        self._note(StorageState.WORKS, 1)

    def _note(self, state: StorageState, errors: int) -> None:
        self._state = state
        self._errors += errors
        self._show(state, self._errors)


class FailureLog:
    """Logs the first failure at once, and those that follow as a number.

    For all threads, without a lock: two that fail in the same moment may both be logged.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing to report; `clock` gives seconds."""
        self._clock = clock
        self._silent_until_s = 0.0
        self._unreported = 0
        self._failures = 0
        self._reported = False

    def failed(self, message: str, level: int = logging.ERROR) -> None:
        """Log `message`, unless one was logged a short while ago."""
        self._failures += 1
        now = self._clock()
        if self._silent_until_s > now:
            self._unreported += 1
            return
        self._silent_until_s = now + LOG_EVERY_S
        unreported, self._unreported = self._unreported, 0
        self._reported = True
        _logger.log(level, "%s%s", message, f" ({unreported} failures since the last report)" if unreported else "")

    def recovered(self, message: str) -> None:
        """Log `message` if a failure was logged before, with how many there were."""
        if not self._failures:
            return
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
        self._probe = threading.Lock()
        """Held by the caller who finds out. Nobody waits for it."""
        self._is_open = False
        self._backoff_s = first_s
        self._retry_at_s = 0.0

    def allows(self) -> bool:
        """Return whether to ask now; while open, one caller at a time is let through to find out."""
        if not self._is_open:
            return True
        return self._clock() >= self._retry_at_s and self._probe.acquire(blocking=False)

    def failed(self) -> float:
        """Open, or stay open for longer; return for how many seconds from now."""
        now = self._clock()
        if self._is_open and not self._probe.locked():
            # A call that began before the breaker opened: it says nothing new.
            return max(0.0, self._retry_at_s - now)
        backoff_s = min(self._backoff_s * 2, self._longest_s) if self._is_open else self._first_s
        self._backoff_s = backoff_s
        self._retry_at_s = now + backoff_s
        self._is_open = True
        self.let_ask()
        return backoff_s

    def succeeded(self) -> None:
        """Close."""
        if self._is_open:
            self._is_open = False
            self.let_ask()

    def let_ask(self) -> None:
        """Let the next caller find out: this one has not."""
        with suppress(RuntimeError):  # another one has done so
            self._probe.release()
