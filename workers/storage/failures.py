"""How a storage handles failures: log them at a limited rate, and stop calling for a while."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tykpy.ipc.ring.layout import StorageState
from tykpy.telemetry.log import Log

LOG_EVERY_S: Final = 10.0
"""Seconds between two lines in the log: failures may be as frequent as dispatches."""

_logger: Final = Log("tykpy.storage")


class Health:
    """State of a storage, shown to the broker. Used by all threads without a lock: a count may be missed."""

    def __init__(self, show: Callable[[StorageState, int], object] = lambda _state, _errors: None) -> None:
        """`show` is called with the state and the number of errors when one of them changes."""
        self._show = show
        self._state = StorageState.UNUSED
        self._errors = 0

    @property
    def errors(self) -> int:
        """Calls that have failed."""
        return self._errors

    @property
    def is_down(self) -> bool:
        """Whether the last call failed, as the next one would."""
        return self._state is StorageState.FAILS

    def works(self) -> None:
        """Note that a call has succeeded."""
        if self._state is not StorageState.WORKS:
            self._note(StorageState.WORKS, 0)

    def fails(self) -> None:
        """Note that a call has failed, and the next one probably will."""
        self._note(StorageState.FAILS, 1)

    def refused(self) -> None:
        """Note that a call has failed for a reason of its own, which others do not share."""
        self._note(StorageState.WORKS, 1)

    def _note(self, state: StorageState, errors: int) -> None:
        self._state = state
        self._errors += errors
        self._show(state, self._errors)


class FailureLog:
    """Logs the first failure at once, and counts those that follow.

    Used by all threads without a lock: two failures at the same moment may both be logged.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing to report; `clock` returns seconds."""
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
    """Decides when to call a failed peer again: once per back-off, which doubles up to a limit."""

    def __init__(self, first_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start closed (all calls are allowed); the back-off grows from `first_s` to `longest_s` seconds."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._clock = clock
        self._probe = threading.Lock()
        """Held by the caller that tries the storage again. Nobody waits for it."""
        self._is_open = False
        self._backoff_s = first_s
        self._retry_at_s = 0.0

    def allows(self) -> bool:
        """Return whether to call now; while open, one call at a time is let through as a probe."""
        if not self._is_open:
            return True
        return self._clock() >= self._retry_at_s and self._probe.acquire(blocking=False)

    def failed(self) -> float:
        """Open, or stay open for longer; return for how many seconds."""
        now = self._clock()
        if self._is_open and not self._probe.locked():
            # This call began before the breaker opened, so its failure is not news.
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
        """Let the next call be the probe: this one had no result."""
        with suppress(RuntimeError):  # another thread released it
            self._probe.release()
