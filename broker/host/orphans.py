"""As process 1 of a container: wait for the ends of processes whose parents are gone, as an init does.

The kernel gives process 1 every orphan of its namespace, e.g. what a hook has started and its worker left behind.
Nobody else waits for them, and each would keep its place in the table of processes.
"""

import asyncio
import os
import signal
from typing import Final

from tykpy.broker.pool.process import OwnChild

INIT: Final = 1
"""Process number of the first process in a PID namespace."""
LOOK_AGAIN: Final = 0.1
"""Seconds after which a child of our own, which somebody waits for, must be gone: it hides those that ended after."""


def is_init() -> bool:
    """Whether this is process 1."""
    return os.getpid() == INIT


class OrphanReaper:
    """Waits for orphans, and never for a child that was started here: who started it learns how it ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def start(self) -> None:
        """Wait for orphans from now on, and for those that have ended already."""
        # Not `add_signal_handler`, which uvloop refuses for this signal.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: self._loop.call_soon_threadsafe(self._reap))
        self._reap()

    def _reap(self) -> None:
        while (ended := _next_ended()) is not None:
            if ended in OwnChild.running:
                self._loop.call_later(LOOK_AGAIN, self._reap)
                return
            os.waitpid(ended, 0)


def _next_ended() -> int | None:
    """Return a child that has ended; it stays to be waited for."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None
