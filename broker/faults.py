"""The broker's own faults: an exception affects only the item that raised it, and is logged once a minute.

The event loop reports what its callbacks raise. Code that handles several dispatches, workers or connections in one
callback does the same for each of them, so that one fault does not affect the others.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.broker")

_T = TypeVar("_T")
_notices: Final = QuietLog(log)


def report(fault: BaseException) -> None:
    """Log the traceback of a fault, but not again within a minute for the same line."""
    frames = traceback.extract_tb(fault.__traceback__, limit=-1)
    place = f"{frames[0].filename}:{frames[0].lineno}" if frames else "unknown"
    name = type(fault).__name__
    text = f"a fault of the broker itself, it goes on: {name} at {place}"
    _notices.log(logging.ERROR, f"{name} {place}", text, (type(fault), fault, fault.__traceback__))


def attempt(action: Callable[..., object], *arguments: Any) -> None:
    """Call a function; report what it raises."""
    try:
        action(*arguments)
    except Exception as fault:  # noqa: BLE001 (the callback of the event loop, for a part of it)
        report(fault)


def each(action: Callable[[_T], object], items: Iterable[_T]) -> None:
    """Call a function with every item; report what it raises, and continue with the next."""
    for item in items:
        attempt(action, item)


class Periodic:
    """Runs an action periodically until it is stopped; exceptions are reported."""

    __slots__ = ("_action", "_loop", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], object]) -> None:
        """`seconds`: before the first run, and between two runs."""
        self._loop = loop
        self._seconds = seconds
        self._action = action
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Run from now on; no effect if it is running already."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._run)

    def stop(self) -> None:
        """Stop running; `start` resumes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        # First, so that there is a next run whatever the action does.
        self._timer = self._loop.call_later(self._seconds, self._run)
        attempt(self._action)
