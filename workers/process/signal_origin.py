"""Distinguish a signal that somebody sent from a fault of this process; both end a worker in the same way.

faulthandler runs first. It writes the stacks, restores the handler that was there before its own, and raises the signal
again. That handler is Python's, which only notes the signal and returns; it is installed so that the next signal of its
kind ends the process (SA_RESETHAND). A fault happens again as soon as the handler returns, and ends the process at
once. If it does not, somebody sent the signal: Python continues, and calls the handler below.
"""

import os
import platform
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

FAULTS: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS)
"""Signals that a process gets for what it did, if nobody sent them."""
_RESETHAND: Final = -0x80000000
"""SA_RESETHAND, as an int has it."""
_KNOWN_LAYOUT: Final = frozenset({"x86_64", "aarch64"})
"""Processors for which the layout of `struct sigaction` is known here."""
_MASK_BYTES: Final = 128

_note: Callable[[], object] | None = None
_owner = 0
"""The process that `_note` describes; not one of its children."""


def watch() -> None:
    """Watch these signals; call this before faulthandler is enabled. On systems other than Linux, do nothing."""
    if sys.platform != "linux" or platform.machine() not in _KNOWN_LAYOUT:
        return
    for number in FAULTS:
        signal.signal(number, _on_sent)
        _only_once(number)


def note_with(note: Callable[[], object]) -> None:
    """Set the function to call before a signal that somebody sent ends this process."""
    global _note, _owner
    _note, _owner = note, os.getpid()


def _on_sent(number: int, _frame: FrameType | None) -> None:
    if _note is not None and os.getpid() == _owner:
        _note()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _only_once(number: int) -> None:
    """Let the next signal end the process once the handler has been called."""
    import ctypes  # zygotes need it anyway

    class Action(ctypes.Structure):
        _fields_ = (
            ("handler", ctypes.c_void_p),
            ("mask", ctypes.c_ubyte * _MASK_BYTES),
            ("flags", ctypes.c_int),
            ("restorer", ctypes.c_void_p),
        )

    library, action = ctypes.CDLL(None), Action()
    library.sigaction(number, None, ctypes.byref(action))
    action.flags |= _RESETHAND
    library.sigaction(number, ctypes.byref(action), None)
