"""As process 1 of a container, wait for orphaned processes like an init does.

The kernel gives process 1 every orphan of its PID namespace, e.g. what a hook has started and its worker left behind.
Without a wait each would keep its place in the table of processes.
"""

import asyncio
import os
import signal
from typing import Final

from tykpy.broker.pool.process import OwnChild

INIT: Final = 1
"""Process number of the first process in a PID namespace."""
RETRY_DELAY: Final = 0.1
"""Seconds until an ended child of our own must have been reaped by its starter: it hides those that ended after it."""


def is_init() -> bool:
    """Say whether this is process 1."""
    return os.getpid() == INIT


def reap_orphans(loop: asyncio.AbstractEventLoop) -> None:
    """Wait for orphans from now on, but never for a child that was started here: its starter learns how it ended."""

    def reap() -> None:
        while (ended := _next_ended()) is not None:
            if ended in OwnChild.running:
                loop.call_later(RETRY_DELAY, reap)
                return
            os.waitpid(ended, 0)

    # Not `add_signal_handler`, which uvloop refuses for this signal.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: loop.call_soon_threadsafe(reap))
    reap()


def _next_ended() -> int | None:
    """Return a child that has ended, without reaping it."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None
