"""Set per-process options with prctl(2)."""

import os
from enum import IntEnum


class Option(IntEnum):
    """Numbers from linux/prctl.h."""

    PDEATHSIG = 1
    """PR_SET_PDEATHSIG: the signal that this process gets when the thread that started it ends."""
    DUMPABLE = 4
    """PR_SET_DUMPABLE: 0, and no process of the same user can trace this one, or read its memory and environment.
    Children inherit it; an exec sets it to 1."""
    CHILD_SUBREAPER = 36
    """PR_SET_CHILD_SUBREAPER: 1, and this process becomes the parent of descendants whose own parent has ended.
    Children do not inherit it; it outlasts an exec."""
    NO_NEW_PRIVS = 38
    """PR_SET_NO_NEW_PRIVS: 1, for good, and no program started from here on gets more rights than its starter has."""


def prctl(option: Option, value: int) -> None:
    """Set an option of this process. Raises OSError."""
    import ctypes  # 2 ms, and a worker that is not forked does not need it

    library = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    if library.prctl(int(option), ctypes.c_ulong(value), none, none, none):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option.name.lower()}: {os.strerror(number)}")
