"""Finds out what a bundle has replaced in the modules that every loop of a program stands on, as gevent.monkey does.

The worker's own loops hold on to what they use. If a worker takes no dispatches all the same, whoever replaced
something is the first suspect.
"""

import _thread
import os
import queue
import select
import selectors
import signal
import socket
import threading
import time
from types import ModuleType
from typing import Any, Final

_WATCHED: Final[tuple[ModuleType, ...]] = (_thread, os, queue, select, selectors, signal, socket, threading, time)


class Primitives:
    """Functions and classes of these modules, as they were at the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def remember(self) -> None:
        """Look for the first time, where there was no look yet: right before the first bundle is loaded."""
        self._seen = self._seen or _look()

    def replaced(self) -> list[str]:
        """Return the names of those that are other ones than at the last look."""
        before, self._seen = self._seen, _look()
        return [name for name, value in before.items() if self._seen.get(name) is not value]


def _look() -> dict[str, Any]:
    return {
        f"{module.__name__}.{name}": value
        for module in _WATCHED
        for name, value in list(vars(module).items())
        if callable(value)
    }
