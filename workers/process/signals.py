"""Signals of a worker or zygote: the broker acts on those for the whole process group, and no timer ends it.

Ctrl-C, a closed terminal, and a service manager that signals every process (systemd's KillMode=control-group) reach
workers as well. The broker lets running dispatches finish, then tells workers to leave.
"""

import faulthandler
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Final

from tykpy.ipc.channel.stacks import STACKS_SIGNAL
from tykpy.telemetry.log import Log
from tykpy.telemetry.output import STDERR
from tykpy.workers.process import signal_origin

GROUP_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 is one of them because log rotation may signal every process of that name."""
_TIMERS: Final = {
    signal.SIGALRM: signal.ITIMER_REAL,
    signal.SIGVTALRM: signal.ITIMER_VIRTUAL,
    signal.SIGPROF: signal.ITIMER_PROF,
}
"""Signals of the timers that plugin code can set."""
_log: Final = Log("tykpy.worker")


def watch_signals() -> None:
    """Leave signals for the group to the broker, and write stacks on SIGUSR2 and SIGXCPU."""
    for number in GROUP_SIGNALS:
        # A handler and not SIG_IGN: programs started by hooks would inherit that, and nobody could terminate them.
        signal.signal(number, _leave_to_broker)
        signal.siginterrupt(number, False)
    for number in _TIMERS:
        signal.signal(number, _stop_timer)
        signal.siginterrupt(number, False)
    signal_origin.watch()
    dump_stacks_to(STDERR)
    # Until the worker has its channel: by default this signal would end it.
    answer_stacks_to(STDERR)
    # They were blocked when the program started, since nothing handled them yet.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def dump_stacks_to(descriptor: int) -> None:
    """Write the stacks of all threads to this descriptor on SIGUSR2 and SIGXCPU, and when the process crashes."""
    faulthandler.enable(descriptor)
    # The broker asks for the stacks of a worker that hangs; the dump does not need the interpreter lock.
    faulthandler.register(signal.SIGUSR2, descriptor, all_threads=True)
    # Show where the CPU time went; then the signal takes its effect.
    faulthandler.register(signal.SIGXCPU, descriptor, all_threads=True, chain=True)


def answer_stacks_to(descriptor: int) -> None:
    """Write the stacks of all threads to this descriptor when the broker asks for them."""
    faulthandler.register(STACKS_SIGNAL, descriptor, all_threads=True)


def release_children() -> None:
    """From now on, give processes that hooks fork the default handlers: multiprocessing ends them with SIGTERM."""
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_become_ordinary)


def _leave_to_broker(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""


def _stop_timer(number: int, _frame: FrameType | None) -> None:
    """Stop a timer that has no handler: by default it would end the worker, whichever hooks run by then."""
    signal.setitimer(_TIMERS[signal.Signals(number)], 0)
    _log.warning("a timer of plugin code has run out, and there is no handler for %s", signal.Signals(number).name)


def _block() -> None:
    # A signal that arrives between the fork and the default handlers stays pending until then.
    _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _thread.mask)


def _become_ordinary() -> None:
    for number in (*GROUP_SIGNALS, *_TIMERS):
        if signal.getsignal(number) in (_leave_to_broker, _stop_timer):
            signal.signal(number, signal.SIG_DFL)
    _unblock()


class _Thread(threading.local):
    mask: Iterable[int] = ()


_thread: Final = _Thread()
