"""Tell from outside whether a process computes or waits."""

import os
import time
from typing import Final

_SCHEDULED: Final = 2
"""CPUCLOCK_SCHED: the clock of a process that clock_getcpuclockid(3) returns; anybody may read it."""
_SLEEPING: Final = (b"S", b"D", b"I")
"""States of threads that wait. A starved thread is runnable; one that was stopped from outside does not count."""

IDLE_CPUS: Final = 0.1
"""A process that uses less of a CPU than this may be waiting, or starved for a while."""
IDLE_LOOKS: Final = 2
"""Looks in a row that must find a process idle before it counts as waiting."""


class CpuUse:
    """The CPU time that one process uses between two looks at it. Times are CLOCK_MONOTONIC ns."""

    __slots__ = ("_clock", "_idle_looks", "_looked_ns", "_pid", "_used_ns")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._clock = (~pid << 3) | _SCHEDULED
        self._used_ns = self._looked_ns = self._idle_looks = 0

    def look(self, now_ns: int) -> None:
        """Read what the process has used since the last look."""
        try:
            used_ns = time.clock_gettime_ns(self._clock)
        except OSError:  # it has ended
            self._looked_ns = 0
        else:
            is_idle = used_ns - self._used_ns < (now_ns - self._looked_ns) * IDLE_CPUS
            self._idle_looks = self._idle_looks + 1 if is_idle and self._looked_ns else 0
            self._used_ns, self._looked_ns = used_ns, now_ns

    @property
    def waits(self) -> bool:
        """Whether the process only waited at the last looks, and still does."""
        return self._looked_ns > 0 and self._idle_looks >= IDLE_LOOKS and self.sleeps()

    def sleeps(self) -> bool:
        """Return whether no thread is runnable: a starved process uses no CPU, but does not wait."""
        try:
            return all(_state_of(self._pid, thread) in _SLEEPING for thread in os.listdir(f"/proc/{self._pid}/task"))
        except FileNotFoundError:  # it has ended, or a thread has: that one was running
            return False
        except OSError:  # /proc does not show it
            return True


def _state_of(pid: int, thread: str) -> bytes:
    # The state follows the name in parentheses, which may hold anything (proc_pid_stat(5)).
    descriptor = os.open(f"/proc/{pid}/task/{thread}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(descriptor, 512)
    finally:
        os.close(descriptor)
    return stat[stat.rindex(b")") + 2 :][:1]
