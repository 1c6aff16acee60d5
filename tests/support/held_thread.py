"""Hold the event loop of a broker while its other threads run on."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Final

import pytest

# <linux/ptrace.h>
_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_WALL: Final = 0x40000000
"""For waitpid: any child or traced thread."""

_ptrace: Final = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


@contextlib.contextmanager
def event_loop_held(pid: int, answers: Callable[[], object]) -> Iterator[None]:
    """Stop a broker's main thread only, as a debugger does; skip the test if that is not allowed.

    `answers` asks another thread, and raises OSError if that does not answer soon: the main thread had the interpreter
    lock then, and is stopped again a moment later.
    """
    while True:
        with _main_thread_held(pid):
            try:
                answers()
            except OSError:
                continue
            yield
            return


@contextlib.contextmanager
def _main_thread_held(pid: int) -> Iterator[None]:
    if _ptrace(_SEIZE, pid, None, None):
        pytest.skip(f"cannot hold a thread of process {pid} (ptrace): {os.strerror(ctypes.get_errno())}")
    try:
        _ptrace(_INTERRUPT, pid, None, None)
        os.waitpid(pid, _WALL)
        yield
    finally:
        _ptrace(_DETACH, pid, None, None)
