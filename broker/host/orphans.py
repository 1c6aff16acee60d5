"""Adopt the processes that descendants leave behind, such as what a hook has started: wait for them, and end them.

The kernel gives an orphan to the nearest ancestor that has asked for orphans (PR_SET_CHILD_SUBREAPER), or to process 1.
Without a wait each would keep its place in the table of processes.
"""

import asyncio
import logging
import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from tykpy.broker.pool.process import OwnChild, stat_of
from tykpy.ipc.prctl import Option, prctl
from tykpy.telemetry.records import counted

log = logging.getLogger("tykpy.broker")

INIT: Final = 1
"""Process number of the first process in a PID namespace."""
RETRY_DELAY: Final = 0.1
"""Seconds until an ended child of our own must have been reaped by its starter: it hides those that ended after it."""
MAX_GENERATIONS: Final = 100
"""How often what a killed process leaves behind is killed in turn."""
END_SECONDS: Final = 1.0
"""Longest time that a killed process may take to end."""
MAX_NAMED: Final = 5
"""Names in a message."""


def is_init() -> bool:
    """Say whether this is process 1."""
    return os.getpid() == INIT


class _Child(NamedTuple):
    pid: int
    name: str
    has_ended: bool


class Orphans:
    """The orphans of this process, which it adopts from now on, until it ends them."""

    def __init__(self) -> None:
        prctl(Option.CHILD_SUBREAPER, 1)
        self._spared = {child.pid for child in _children()}
        """Children from before: a shell had started them, and then became this program by exec."""

    def close(self) -> None:
        """Kill what is left, and wait for it; only a successor goes on."""
        names: list[str] = []
        for _ in range(MAX_GENERATIONS):
            left = [child for child in _children() if child.pid not in self._spared | OwnChild.running]
            if not left:
                break
            names += [child.name for child in left if not child.has_ended]
            for child in left:
                self._end(child.pid)
        if names:
            what = counted(len(names), "process that workers had left is", "processes that workers had left are")
            log.warning("%s killed: %s", what, ", ".join(sorted(set(names))[:MAX_NAMED]))

    def _end(self, pid: int) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            self._spared.add(pid)
            return
        try:
            with suppress(PermissionError):  # a program with more rights
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not select.select([descriptor], [], [], END_SECONDS)[0]:
                self._spared.add(pid)
        finally:
            os.close(descriptor)
        os.waitpid(pid, os.WNOHANG)


def reap_orphans(loop: asyncio.AbstractEventLoop) -> None:
    """Wait for orphans from now on, but never for a child that was started here: its starter learns how it ended."""

    def reap() -> None:
        while (ended := _next_ended()) is not None:
            if ended in OwnChild.running:
                loop.call_later(RETRY_DELAY, reap)
                return
            os.waitpid(ended, 0)

    def on_signal(_number: int, _frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(reap)

    # Not `add_signal_handler`, which uvloop refuses for this signal.
    signal.signal(signal.SIGCHLD, on_signal)
    reap()


def _next_ended() -> int | None:
    """Return a child that has ended, without reaping it."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _children() -> Iterator[_Child]:
    """Yield the children of this process. Not every kernel has `/proc/PID/task/TID/children`."""
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):  # it is gone
                name, (state, parent, *_) = stat_of(int(entry))
                if int(parent) == own:
                    yield _Child(int(entry), name, state == b"Z")
