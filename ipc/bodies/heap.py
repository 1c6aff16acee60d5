"""Tune the C heap for big bodies: keep freed memory while they come and go, return it when none come.

glibc returns free memory at the heap's end to the kernel as soon as it is more than twice the largest piece that was
freed. With bodies of 1 MiB that is at every dispatch: 500 page faults in a worker, more than everything else it does.
"""

from functools import cache
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 64 * 1024 * 1024
"""Bytes of free memory at the heap's end that stay: several of the largest messages."""
_MAPPED_ABOVE: Final = 32 * 1024 * 1024
"""Bytes of one piece from which on it is mapped and unmapped by itself: the most that glibc takes."""


def keep_freed() -> None:
    """Keep memory that is freed from now on, until `give_back`. Do nothing if the C library is not glibc."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_ABOVE)


def give_back() -> None:
    """Return all free memory to the kernel."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    import ctypes  # 2 ms, and most processes never see a big body

    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
