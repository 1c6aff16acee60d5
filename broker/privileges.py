"""What the broker gives up before plugin code runs anywhere: for itself and, since they inherit it, for its workers."""

import ctypes
import os
from typing import Final

from broker.errors import PrivilegeError

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
"""Numbers of prctl(2), from linux/prctl.h."""


def renounce() -> None:
    """Give up what no process of ours needs.

    `no_new_privs`: no program started from here on gets more rights than its starter has, whatever set-user-ID bit or
    capability its file has. Inherited by workers, and final.
    Not dumpable: processes of the same user, as workers are, can neither trace the broker nor read its memory and
    environment. A worker is dumpable again, since it starts with exec: --max-memory looks into it.

    Raises PrivilegeError.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    _prctl(_PR_SET_DUMPABLE, 0, "dumpable")


def _prctl(option: int, value: int, name: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise PrivilegeError(f"prctl {name}: {os.strerror(ctypes.get_errno())}")
