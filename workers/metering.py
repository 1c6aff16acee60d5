"""How much of its time a hook waits, as the kernel and the interpreter's other threads let us tell.

Wall time without CPU time is not it: a thread that wants the CPU or the interpreter's lock gets on no better if more
threads want them. What is neither computing, nor waiting for one of the two, is waiting for something else.
"""

import os
import time
from contextlib import suppress
from typing import Final

from tykpy.ipc.ring.layout import MAX_HANDLER_NS, MAX_WAITING, WAITING_SHIFT

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
"""Time on a CPU (at the last tick), time on a run queue, number of slices; ns."""
_SCHEDSTAT_BYTES: Final = 80
SLICE_NS: Final = 1_000_000
"""CPU time below which how long a thread waited for it says nothing about others."""
# Bound before plugins are imported; see `ipc/channel/doorbell.py`.
_open: Final = os.open
_pread: Final = os.pread
_thread_time_ns: Final = time.thread_time_ns
_process_time_ns: Final = time.process_time_ns


class Meter:
    """Measures the calls that one thread runs."""

    __slots__ = ("_delay_ns", "_descriptor", "_hooks_ns", "_own_ns", "_process_ns")

    hooks_ns = 0
    """CPU time of all measured calls that have ended. Threads may lose each other's: it is compared, not relied on."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._own_ns = self._process_ns = self._delay_ns = self._hooks_ns = 0

    def begin(self) -> None:
        """A call begins."""
        if self._descriptor < 0:
            with suppress(OSError):  # a kernel without it, or no descriptors left: what cannot be told is waiting
                self._descriptor = _open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self._delay_ns = self._run_queue_ns()
        self._hooks_ns = Meter.hooks_ns
        self._process_ns = _process_time_ns()
        self._own_ns = _thread_time_ns()

    def end(self, handler_ns: int, busy: int) -> int:
        """Return time and waiting share of a call, see `aux` in `ipc.ring.layout`; `busy`: calls that ran, with it."""
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
        """Give the descriptor back."""
        with suppress(OSError):  # there is none, or plugin code has closed it
            os.close(self._descriptor)

    def _run_queue_ns(self) -> int:
        try:
            return int(_pread(self._descriptor, _SCHEDSTAT_BYTES, 0).split()[1])
        except (OSError, ValueError, IndexError):  # plugin code may have closed it
            return 0


def waiting_share(
    handler_ns: int, own_ns: int, others_ns: int, delay_ns: int, busy: int, unclaimed_ns: int
) -> float | None:
    """Which part of a call's waiting and computing is waiting, 0 to 1; None where it cannot be told.

    `own_ns` and `others_ns`: CPU time of its thread, and of the process's others meanwhile; `delay_ns`: how long its
    thread waited for a CPU; `busy`: calls that ran at the same time; `unclaimed_ns`: the part of `others_ns` that was
    no other call's own.
    """
    # What threads computed that run no hooks, they did on behalf of those that do.
    computing_ns = own_ns + unclaimed_ns // busy
    wanted_ns = own_ns + delay_ns
    # Others wait for CPUs as well while they have the interpreter's lock, and get them like this thread; but each of
    # its short runs may wait for a whole slice.
    others_ns = min(others_ns + others_ns * delay_ns // max(own_ns, SLICE_NS), handler_ns)
    # It wanted the lock during the same part of their time as of the rest, and waited for one turn of each at most.
    contended_ns = min(wanted_ns * others_ns // max(handler_ns - others_ns, 1), wanted_ns * (busy - 1), others_ns)
    idle_ns = max(handler_ns - max(wanted_ns + contended_ns, computing_ns), 0)
    # A guess at what others took is no measurement of the rest where they took most.
    if computing_ns < idle_ns < delay_ns + contended_ns:
        return None
    return idle_ns / max(idle_ns + computing_ns, 1)
