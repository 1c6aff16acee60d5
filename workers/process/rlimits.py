"""Resource limits of a worker (setrlimit(2)), set before any bundle is loaded and never lifted.

Memory and descriptors have fixed limits. CPU time is a budget that every dispatch renews: it limits one stretch of
work, not the worker's lifetime.
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
VARIATION: Final = 80 * MIB
"""How much more address space one start may need than another: malloc takes 64 MiB at once when two threads need memory
at the same time, and its mappings differ."""
OWN_THREADS: Final = 2
"""Threads besides those that run hooks: the control thread and the event loop of `async def` hooks."""
DEFAULT_STACK: Final = 8 * MIB
"""Bytes of address space per thread, if the stack's own limit is infinite."""
SPARE_FILES: Final = 16
"""Descriptors that a worker needs for its own: files that it imports, its storage, messages too big for a ring."""
RENEW_NS: Final = 500_000_000
"""A budget younger than this is not renewed, which costs two system calls."""
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
    """Seconds of CPU time since the last dispatch started; the kernel sends SIGXCPU when they are used up."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._due_ns = 0

    def renew(self, now_ns: int) -> None:
        """Renew the budget as a dispatch starts; `now_ns` is CLOCK_MONOTONIC."""
        if now_ns < self._due_ns:
            return
        self._due_ns = now_ns + RENEW_NS
        _, hard = _getrlimit(resource.RLIMIT_CPU)
        # The limit has a resolution of whole seconds; rounding up, no dispatch gets less than was promised.
        soft = math.ceil(_process_time()) + self._seconds
        _setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def apply(limits: Mapping[str, Any], threads: int) -> CpuBudget | None:
    """Set the limits `{"memory": bytes, "cpu": seconds, "files": n}` (0: none); return the CPU budget to renew, if any.

    Raises LimitError if a worker could not even start with them.
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
    """When memory runs out, have the kernel end this worker, which is replaced, and not the broker.

    Processes that hooks start inherit this. It is added to the value that a service manager gave us.
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
        needed = least + VARIATION
        raise LimitError(f"--limit-memory {memory} is too low: a worker needs {needed} before its bundles take any")
    _set(resource.RLIMIT_AS, memory, "--limit-memory")


def _set(kind: int, value: int, flag: str) -> None:
    """Set soft and hard limit: plugins cannot raise it again, unless the broker runs as root."""
    _, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (value, value))
    except ValueError as error:
        raise LimitError(f"{flag} {value} is above the limit that the broker was started with, {hard}") from error
