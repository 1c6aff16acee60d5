"""Estimate which part of its time a hook waits for something other than a CPU or the interpreter's lock.

Wall time minus CPU time would be wrong: a thread that waits for a CPU or for the interpreter's lock does not get on any
faster if more threads want them. Only the rest of the time is waiting that other threads can use.
"""

import os
import time
from contextlib import suppress
from typing import Final

from tykpy.ipc.ring.layout import MAX_HANDLER_NS, MAX_WAITING, WAITING_SHIFT

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
"""Holds the time on a CPU (as of the last tick) and on a run queue, in ns, and the number of time slices."""
_SCHEDSTAT_BYTES: Final = 80
SLICE_NS: Final = 1_000_000
"""A thread that computed for less (in ns) does not show by its own delay how long others waited for a CPU."""
# Bound before plugins are imported; see `ipc/channel/doorbell.py`.
_open: Final = os.open
_close: Final = os.close
_pread: Final = os.pread
_thread_time_ns: Final = time.thread_time_ns
_process_time_ns: Final = time.process_time_ns


class Meter:
    """Measures the calls that one thread runs."""

    __slots__ = ("_delay_ns", "_descriptor", "_hooks_ns", "_own_ns", "_process_ns")

    hooks_ns = 0
    """CPU time of all measured calls that have ended. Racing threads may lose updates; it is only an estimate."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._own_ns = self._process_ns = self._delay_ns = self._hooks_ns = 0

    def begin(self) -> None:
        """Begin to measure a call."""
        if self._descriptor < 0:
            with suppress(OSError):  # no descriptors left: delays then count as waiting
                self._descriptor = _open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self._delay_ns = self._run_queue_ns()
        self._hooks_ns = Meter.hooks_ns
        self._process_ns = _process_time_ns()
        self._own_ns = _thread_time_ns()

    def end(self, handler_ns: int, busy: int) -> int:
        """Return time and waiting share of a call as `aux` in `ipc.ring.layout`; `busy` calls ran, with this one."""
        own_ns = _thread_time_ns() - self._own_ns
        process_ns = max(_process_time_ns() - self._process_ns, own_ns)
        delay_ns = max(self._run_queue_ns() - self._delay_ns, 0)
        others_ns = process_ns - own_ns
        unclaimed_ns = max(others_ns - (Meter.hooks_ns - self._hooks_ns), 0)
        Meter.hooks_ns += own_ns
        share = waiting_share(handler_ns, own_ns, others_ns, delay_ns, busy, unclaimed_ns)
        waiting = 0 if share is None else 1 + int(MAX_WAITING * share)
        return min(handler_ns, MAX_HANDLER_NS) | waiting << WAITING_SHIFT

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            with suppress(OSError):  # plugin code has closed it
                _close(self._descriptor)

    def _run_queue_ns(self) -> int:
        try:
            return int(_pread(self._descriptor, _SCHEDSTAT_BYTES, 0).split()[1])
        except (OSError, ValueError, IndexError):  # plugin code may have closed it
            return 0


def waiting_share(
    handler_ns: int, own_ns: int, others_ns: int, delay_ns: int, busy: int, unclaimed_ns: int
) -> float | None:
    """Return waiting / (waiting + computing) of a call, 0 to 1, or None if it is not known.

    `own_ns` is the CPU time of its thread, `others_ns` that of the process's other threads meanwhile, and
    `unclaimed_ns` the part of it that no other call used. Its thread waited `delay_ns` for a CPU. `busy` calls ran at
    the same time.
    """
    # Threads that run no hooks compute on behalf of those that do.
    computing_ns = own_ns + unclaimed_ns // busy
    wanted_ns = own_ns + delay_ns
    # Other threads also wait for CPUs while they hold the interpreter's lock, as long as this thread does; but each of
    # its short runs may wait for a whole time slice.
    others_ns = min(others_ns + others_ns * delay_ns // max(own_ns, SLICE_NS), handler_ns)
    # It wanted the lock for the same share of their time as of the rest, and waited at most once for each of them.
    contended_ns = min(wanted_ns * others_ns // max(handler_ns - others_ns, 1), wanted_ns * (busy - 1), others_ns)
    idle_ns = max(handler_ns - max(wanted_ns + contended_ns, computing_ns), 0)
    # If other threads took most of the time, an estimate of their part does not tell what remains.
    if computing_ns < idle_ns < delay_ns + contended_ns:
        return None
    return idle_ns / max(idle_ns + computing_ns, 1)
