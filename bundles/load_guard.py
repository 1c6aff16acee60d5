"""Guard the process while a bundle is loaded: undo what it changed for the whole process, or end the process.

A bundle cannot be kept from changing the process that it is loaded into. Changes that would hurt the bundles after it,
and are of no use to itself once it is loaded, are undone. A process that is no longer a worker, has lost its channel,
or cannot load another bundle any more, ends: the broker knows which bundle was being loaded.

Functions that it replaced in the modules that every loop of a program uses, as gevent.monkey does, are reported. The
worker's own loops hold on to what they use; if a worker takes no dispatches all the same, that bundle is the first
suspect.
"""

import _thread
import builtins
import faulthandler
import importlib
import os
import queue
import resource
import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from operator import is_
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from tykpy.bundles.left_behind import Trace, kinds_of, traces
from tykpy.bundles.load_check import functions_for_loading, load_sound_bundle
from tykpy.bundles.loading import PRIVATE
from tykpy.bundles.plugin_errors import described
from tykpy.ipc.description import MAX_MESSAGE
from tykpy.ipc.exits import WorkerExit
from tykpy.ipc.text import bounded
from tykpy.telemetry.log import Log, close_log, restore_streams

_log: Final = Log("tykpy.load")

_STDIN: Final = 0
_LISTS: Final = ("path", "meta_path", "path_hooks")
"""Lists of `sys` without which other bundles cannot import anything."""
_LIMITS: Final = tuple(
    getattr(resource, f"RLIMIT_{name}") for name in ("AS", "CORE", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
)
_TIMERS: Final = (
    (signal.ITIMER_REAL, signal.SIGALRM),
    (signal.ITIMER_VIRTUAL, signal.SIGVTALRM),
    (signal.ITIMER_PROF, signal.SIGPROF),
)
"""Timers, and the signals that end a process which does not handle them."""
_AUDITED: Final[tuple[tuple[Any, ...], ...]] = (
    ("compile", None, "<tykpy>"),
    ("exec", compile("0", "<tykpy>", "eval")),
    ("import", "tykpy", None, None, None, None),
    ("open", os.devnull, "r", os.O_RDONLY),
    ("object.__getattr__", None, "tb_frame"),
    ("_thread.start_new_thread", print, (), {}),
    ("tykpy",),
)
"""Events of `sys.audit` that every worker raises, and an unknown one: some hooks refuse all but a few."""
_WATCHED: Final[tuple[ModuleType, ...]] = (_thread, os, queue, select, selectors, signal, socket, threading, time)
"""The modules in which replaced functions are reported."""
# Bound before any plugin could replace them.
_exit, _fstat, _getcwd, _getpid, _stat = os._exit, os.fstat, os.getcwd, os.getpid, os.stat
_open, _set_inheritable, _getframe = os.open, os.set_inheritable, sys._getframe
_getresuid, _getresgid = os.getresuid, os.getresgid
_getrlimit, _setrlimit = resource.getrlimit, resource.setrlimit
_getitimer, _setitimer, _getsignal = signal.getitimer, signal.setitimer, signal.getsignal
_cancel_dump, _audit = faulthandler.cancel_dump_traceback_later, sys.audit


class LoadGuard:
    """Knows what must not change in this process."""

    def __init__(self, descriptors: Iterable[int] = (), end: Callable[[WorkerExit], object] = _exit) -> None:
        """`descriptors`: those without which the process is of no use. `end` ends the process, or raises an error."""
        _pin_import_locks()
        self._end = end
        self._pid = _getpid()
        self._descriptors = {descriptor: _identity(descriptor) for descriptor in descriptors}
        self._identity = _identity_of_process()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._primitives: dict[str, Any] = {}
        """The callables of the watched modules, as they were at the last look."""
        self.left: set[str] = set()
        """Kinds of what the last bundle has left running."""
        self._running: set[Trace] | None = None
        """What was running after the last bundle."""
        self._can_load: bool | None = None
        """Whether the sound bundle could be loaded before any other."""
        self._modules = {name: module for name, module in sys.modules.items() if not name.startswith(PRIVATE)}

    @contextmanager
    def around(self, bundle: str = "", *, archives: bool = False) -> Iterator[None]:
        """Guard the process while one bundle is loaded; `bundle` is its name in the log.

        `archives`: end the process, too, if no ZIP can be read any more.
        """
        self._primitives = self._primitives or _primitives()
        functions = functions_for_loading()
        if self._can_load is None:
            self._can_load = _can_load(archives)
        self.left.clear()
        running = self._running or traces()
        limit, folder = sys.getrecursionlimit(), _folder()
        limits = [_getrlimit(kind) for kind in _LIMITS]
        names, lists = vars(builtins).copy(), {name: list(getattr(sys, name)) for name in _LISTS}
        try:
            yield
        finally:
            # A higher limit stays: it is for the bundle's own hooks.
            sys.setrecursionlimit(max(limit, sys.getrecursionlimit()))
            try:
                self._end_if_useless(limits)
            except BaseException:
                with suppress(BaseException):  # what the bundle has done may keep it from being undone
                    self._restore(names, lists, folder)
                raise
            self._restore(names, lists, folder)
            if self._can_load and not _still_loads(bundle, functions, archives):
                self._can_load = False  # if the process goes on, the next bundle is not to blame
                self._end(WorkerExit.LOADING)
            # Last: a child that returned from a fork has ended by now.
            self._running = traces()
            self.left.update(kinds_of(self._running - running))

    def replaced(self) -> list[str]:
        """Return the names of the watched functions that were replaced since the last look."""
        before, self._primitives = self._primitives, _primitives()
        return [name for name, value in before.items() if self._primitives.get(name) is not value]

    def _restore(self, names: dict[str, Any], lists: dict[str, list[Any]], folder: str | None) -> None:
        """Undo what is of no use to the bundle; the arguments are builtins, import lists and folder from before it."""
        _restore_streams()
        _stop_timers()
        vars(builtins).update(names)
        for name, entries in lists.items():
            _restore_list(name, entries)
        _remove_broken_finders(lists["meta_path"])
        os.umask(self._umask)
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)
        self._restore_modules()

    def _restore_modules(self) -> None:
        """Put removed and replaced modules back, and let those be imported that the bundle forbade (None)."""
        # Nearly always there is none, and modules may be thousands: `any` and `map` do not run bytecode for each.
        if any(map(is_, list(sys.modules.values()), repeat(None))):
            for name in [name for name, module in list(sys.modules.items()) if module is None]:
                del sys.modules[name]
        sys.modules.update(self._modules)

    def _end_if_useless(self, limits: list[tuple[int, int]]) -> None:
        is_limited = not _restore_limits(limits)
        if _getpid() != self._pid:
            # The bundle forked, and its child returned from the fork: it is no worker.
            _exit(WorkerExit.DONE)
        if any(_identity(descriptor) != before for descriptor, before in self._descriptors.items()):
            self._end(WorkerExit.DESCRIPTORS)
        if _identity_of_process() != self._identity:
            self._end(WorkerExit.IDENTITY)
        if is_limited:
            self._end(WorkerExit.LIMITS)
        if _refuses():
            self._end(WorkerExit.AUDIT)


def _pin_import_locks() -> None:
    """Have the import system tell threads apart as it does now: a bundle that is being imported holds its locks.

    After gevent.monkey has replaced `get_ident` they could not be released.
    """
    bootstrap: Any = importlib._bootstrap
    if bootstrap._thread is _thread:
        bootstrap._thread = SimpleNamespace(**vars(_thread))


def _identity(descriptor: int) -> tuple[int, int, int] | None:
    try:
        status = _fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mode


def _identity_of_process() -> tuple[Any, ...]:
    """Return the process's user and group for the kernel, and its root folder."""
    root = _stat("/")
    return _getresuid(), _getresgid(), root.st_dev, root.st_ino


def _restore_limits(before: list[tuple[int, int]]) -> bool:
    """Undo lower limits; return whether that is allowed."""
    for kind, (soft, hard) in zip(_LIMITS, before, strict=True):
        if _getrlimit(kind) != (soft, hard):
            try:
                _setrlimit(kind, (soft, hard))
            except (OSError, ValueError):
                return False
    return True


def _restore_streams() -> None:
    """Open closed standard streams again: the next files would get their numbers, and child processes write there."""
    if _identity(_STDIN) is None:
        _set_inheritable(_open(os.devnull, os.O_RDONLY), True)  # which gets the lowest number
    restore_streams()


def _stop_timers() -> None:
    """Stop timers that would end the process later."""
    for timer, number in _TIMERS:
        if _getitimer(timer)[0] and _getsignal(number) == signal.SIG_DFL:
            _setitimer(timer, 0)
    _cancel_dump()


def _refuses() -> bool:
    """Return whether an audit hook refuses what every worker does; hooks cannot be removed."""
    try:
        for event in _AUDITED:
            _audit(*event)
        _ = _getframe().f_code
    except BaseException:  # noqa: BLE001 (whatever it raises, others get it too)
        return True
    return False


def _can_load(archives: bool) -> bool:
    """Return whether the sound bundle can be loaded; without its files no bundle is to blame that it cannot."""
    try:
        load_sound_bundle(archives=archives)
    except Exception as error:  # noqa: BLE001 (it cannot be used, for whatever reason)
        _log.warning("whether bundles keep others from loading is not checked: %s", described(error))
        return False
    return True


def _still_loads(bundle: str, functions: dict[str, Any], archives: bool) -> bool:
    """Return whether the sound bundle can still be loaded; if not, log what of `functions` the bundle replaced."""
    try:
        load_sound_bundle(archives=archives)
    except BaseException as error:  # noqa: BLE001 (whatever it raises, other bundles would raise it too)
        with suppress(BaseException):  # the log may need what was replaced
            now = functions_for_loading()
            replaced = ", ".join(name for name, value in functions.items() if now.get(name) is not value)
            _log.error(
                "bundle %s replaced %s: no other bundle can be loaded after it (%s)",
                bundle,
                bounded(replaced, MAX_MESSAGE) or "a part of Python",
                described(error),
            )
            close_log()
        return False
    return True


def _folder() -> str | None:
    try:
        return _getcwd()
    except OSError:
        return None  # it was removed


def _remove_broken_finders(before: list[Any]) -> None:
    """Remove a bundle's finders that raise when asked for a module they do not know."""
    known = set(map(id, before))
    for finder in [one for one in sys.meta_path if id(one) not in known]:
        try:
            finder.find_spec("tykpy_no_such_module", None, None)
        except BaseException:  # noqa: BLE001 (whatever it raises, every import of other bundles would)
            sys.meta_path.remove(finder)


def _restore_list(name: str, entries: list[Any]) -> None:
    """Add what is missing in one of the lists of `sys`; entries that the bundle added stay."""
    current: object = getattr(sys, name, None)
    if type(current) is not list:
        setattr(sys, name, entries)
        return
    there = set(map(id, current))
    current.extend(entry for entry in entries if id(entry) not in there)


def _primitives() -> dict[str, Any]:
    return {
        f"{module.__name__}.{name}": value
        for module in _WATCHED
        for name, value in list(vars(module).items())
        if callable(value)
    }
