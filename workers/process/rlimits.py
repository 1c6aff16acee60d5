"""What a worker may use of the machine (setrlimit(2)); set before any bundle is loaded, and never given back.

Memory and descriptors are limited for good. CPU is a budget that every dispatch renews: what counts is what one
stretch of work takes, not how long the worker lives.
"""

import contextlib
import math
import os
import resource
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tykpy.bundles.errors import LimitError

MIB: Final = 1024 * 1024
SPARE_MEMORY: Final = 32 * MIB
"""Address space that a worker needs for its own, beyond what it has before bundles are loaded and threads' stacks."""
OWN_THREADS: Final = 2
"""Besides those that run hooks: the control thread and the event loop of `async def` hooks."""
DEFAULT_STACK: Final = 8 * MIB
"""Bytes of address space per thread, where the stack's own limit does not say."""
SPARE_FILES: Final = 16
"""Descriptors that a worker needs for its own: files that it imports, its storage, messages too big for a ring."""
RENEW_NS: Final = 500_000_000
"""A budget younger than this is as good as new; renewing it costs two system calls."""
OOM_STEP: Final = 500
"""Added to a worker's oom_score_adj, in thousandths of the memory: a broker may hold 2 GiB of messages."""
OOM_MOST: Final = 1000
"""The largest value that the kernel takes."""
_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
# Bound before plugins are imported; see `ipc/channel/doorbell.py`.
_getrlimit: Final = resource.getrlimit
_setrlimit: Final = resource.setrlimit
_process_time: Final = time.process_time
_OPEN_FILES: Final = Path("/proc/self/fd")
_STATM: Final = Path("/proc/self/statm")


class CpuBudget:
    """So many seconds of CPU, from the last dispatch that started; the kernel sends SIGXCPU when they are used up."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._due_ns = 0

    def renew(self, now_ns: int) -> None:
        """A dispatch starts; `now_ns` is CLOCK_MONOTONIC."""
        if now_ns < self._due_ns:
            return
        self._due_ns = now_ns + RENEW_NS
        _, hard = _getrlimit(resource.RLIMIT_CPU)
        # Whole seconds are all that the limit knows; rounded up, nobody gets less than was promised.
        soft = math.ceil(_process_time()) + self._seconds
        _setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def apply(limits: Mapping[str, Any], threads: int) -> CpuBudget | None:
    """Set the limits of `{"memory": bytes, "cpu": seconds, "files": n}`, 0: none; returns the budget to renew, if any.

    Raises LimitError where a worker could not even start with them.
    """
    if limits["files"]:
        _limit_files(limits["files"])
    if limits["memory"]:
        _limit_memory(limits["memory"], threads)
    if not limits["cpu"]:
        return None
    budget = CpuBudget(limits["cpu"])
    budget.renew(time.monotonic_ns())
    return budget


def be_first_without_memory() -> None:
    """Have the kernel end this worker, which is replaced, rather than the broker when there is no memory left.

    What hooks start inherits it. The value that a service manager gave us counts on top.
    """
    with contextlib.suppress(OSError):  # a /proc that is read-only
        inherited = int(_OOM_SCORE.read_text())
        _OOM_SCORE.write_text(str(min(inherited + OOM_STEP, OOM_MOST)))


def _limit_files(files: int) -> None:
    least = len(os.listdir(_OPEN_FILES)) + SPARE_FILES
    if files < least:
        raise LimitError(f"--limit-files {files} is too low: a worker needs {least} before its bundles open any")
    _set(resource.RLIMIT_NOFILE, files, "--limit-files")


def _limit_memory(memory: int, threads: int) -> None:
    used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack = threading.stack_size() or (DEFAULT_STACK if stack == resource.RLIM_INFINITY else stack)
    least = used + (threads + OWN_THREADS) * stack + SPARE_MEMORY
    if memory < least:
        raise LimitError(f"--limit-memory {memory} is too low: a worker needs {least} before its bundles take any")
    _set(resource.RLIMIT_AS, memory, "--limit-memory")


def _set(kind: int, value: int, flag: str) -> None:
    """Soft and hard: plugins cannot raise it again, unless the broker runs as root."""
    _, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (value, value))
    except ValueError as error:
        raise LimitError(f"{flag} {value} is above the limit that the broker was started with, {hard}") from error
