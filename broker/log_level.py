"""Another log level for a while, in the broker and all workers: `tykpy log-level debug --for 60s`."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError
from tykpy.broker.units import show_time
from tykpy.telemetry.log import set_level

LEVELS: Final = ("debug", "info", "warning", "error")
MAX_SECONDS: Final = 86_400.0

log = logging.getLogger("tykpy.broker")


class LogLevel:
    """Changes the level for a while, and then restores that of `--log-level`, even if the client has gone."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: BrokerConfig, tell_workers: Callable[[str], None]
    ) -> None:
        """`tell_workers` has those that run now take over a level; later ones start with this process's."""
        self._loop = loop
        self._configured = self._level = config.log_level
        self._file = str(config.log_file or "")
        self._tell_workers = tell_workers
        self._timer: asyncio.TimerHandle | None = None

    def change(self, level: str, seconds: float) -> None:
        """Log from this level on for some time. Raises ConfigError."""
        if level not in LEVELS:
            raise ConfigError(f"{level!r} is not a log level: give {', '.join(LEVELS)}")
        if not 0 < seconds <= MAX_SECONDS:
            raise ConfigError(f"{seconds:g} s: must be more than 0 and at most {show_time(MAX_SECONDS)}")
        self.close()
        self._set(level)
        self._timer = self._loop.call_later(seconds, self._restore)
        log.warning("the log level is %s for %s, then %s again", level, show_time(seconds), self._configured)

    def describe(self) -> dict[str, Any]:
        """Return the level, how many seconds it stays (None: until it is changed), and the file, if there is one."""
        left = None if self._timer is None else max(0.0, round(self._timer.when() - self._loop.time(), 1))
        return {"level": self._level, "seconds_left": left, "file": self._file}

    def close(self) -> None:
        """Forget to bring back the configured level."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _restore(self) -> None:
        self._timer = None
        log.warning("the log level is %s again", self._configured)
        self._set(self._configured)

    def _set(self, level: str) -> None:
        self._level = level
        set_level(level)
        self._tell_workers(level)
