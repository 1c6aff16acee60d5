"""Find what a bundle leaves running in this process: it may end the process while another bundle is loaded."""

import gc
import inspect
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

THREADS: Final = "threads"
PROCESSES: Final = "child processes"
HANDLERS: Final = "signal handlers"
"""Which timers call, too; those without a handler are stopped (see load_guard.py)."""
HOOKS: Final = "hooks of the interpreter"
"""Finders of modules, tracers, callbacks of the garbage collector."""
STARTED: Final = "what @on_start has started"
"""Tasks of the event loop that all bundles share, for one."""

_TASKS: Final = "/proc/self/task"
_SIGNALS: Final = sorted(map(int, signal.valid_signals()))
_UNKNOWN: Final = ""
"""A child process whose number the kernel does not show (CONFIG_PROC_CHILDREN)."""
# Bound before any plugin could replace them. What `signal.getsignal` wraps is ten times as fast.
_getsignal: Final = inspect.unwrap(signal.getsignal)
_gettrace, _getprofile, _collector_callbacks = sys.gettrace, sys.getprofile, gc.callbacks
_listdir, _waitid, _open, _read, _close = os.listdir, os.waitid, os.open, os.read, os.close

Trace = tuple[str, int | str]
"""A kind, and what tells one of that kind from another."""


def traces() -> set[Trace]:
    """Return all that could run plugin code in this process, or signal it, without being called (30 us)."""
    threads = _entries(_TASKS)
    hooks = (_gettrace(), _getprofile(), *_collector_callbacks, *sys.meta_path, *sys.path_hooks)
    return {
        *((THREADS, thread) for thread in threads),
        *((PROCESSES, child) for child in _children(threads)),
        *((HANDLERS, f"{number} {id(handler)}") for number, handler in _handlers()),
        *((HOOKS, id(hook)) for hook in hooks if hook is not None),
    }


def kinds_of(found: Iterable[Trace]) -> list[str]:
    """Return the kinds of these traces, as they are named in messages."""
    return sorted({kind for kind, _ in found})


def _entries(folder: str) -> list[str]:
    try:
        return _listdir(folder)
    except OSError:
        return []


def _handlers() -> Iterator[tuple[int, object]]:
    for number in _SIGNALS:
        handler = _getsignal(number)
        if callable(handler):
            yield number, handler


def _children(threads: Iterable[str]) -> set[str]:
    """Return the numbers of the child processes; usually there is none, which takes one call to find out."""
    try:
        _waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return set()
    found: set[str] = set()
    for thread in threads:
        found.update(_text(f"{_TASKS}/{thread}/children").split())
    return {child for child in found if not _has_ended(child)} if found else {_UNKNOWN}


def _has_ended(child: str) -> bool:
    """Return whether a child only waits to be reaped: the state follows the name, in brackets (proc_pid_stat(5))."""
    return _text(f"/proc/{child}/stat").rpartition(")")[2].startswith(" Z")


def _text(path: str) -> str:
    with suppress(OSError):
        descriptor = _open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read(descriptor, 1 << 16).decode()
        finally:
            _close(descriptor)
    return ""
