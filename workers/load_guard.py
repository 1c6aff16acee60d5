"""Stands around the load of each bundle: what it changed for the whole process is undone, or ends the process.

A bundle cannot be kept from changing the process that it is loaded into. What would hurt the bundles after it, and is
of no use to itself once it is loaded, is put back. A process that is no worker any more, or has lost its channel, ends:
the broker knows which bundle was being loaded.
"""

import builtins
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from ipc.exits import WorkerExit
from workers.loading import PRIVATE

_LISTS: Final = ("path", "meta_path", "path_hooks")
"""Without what `sys` has here, other bundles import nothing."""
# Taken before any plugin could put something else in their place.
_exit, _fstat, _getcwd, _getpid = os._exit, os.fstat, os.getcwd, os.getpid


class LoadGuard:
    """Knows what has to stay as it is in this process."""

    def __init__(self, descriptors: Iterable[int] = ()) -> None:
        """`descriptors`: without these the process is of no use."""
        self._pid = _getpid()
        self._descriptors = {descriptor: _identity(descriptor) for descriptor in descriptors}
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._modules = {name: module for name, module in sys.modules.items() if not name.startswith(PRIVATE)}

    @contextmanager
    def around(self) -> Iterator[None]:
        """Load one bundle inside of this."""
        limit, folder = sys.getrecursionlimit(), _folder()
        names, lists = vars(builtins).copy(), {name: list(getattr(sys, name)) for name in _LISTS}
        try:
            yield
        finally:
            # A higher one is for the bundle's own hooks.
            sys.setrecursionlimit(max(limit, sys.getrecursionlimit()))
            self._end_if_useless()
            vars(builtins).update(names)
            for name, entries in lists.items():
                _put_back(name, entries)
            os.umask(self._umask)
            if folder is not None:
                with suppress(OSError):
                    os.chdir(folder)
            if not self._modules.keys() <= sys.modules.keys():
                sys.modules.update({**self._modules, **sys.modules})

    def _end_if_useless(self) -> None:
        if _getpid() != self._pid:
            # The child of a fork in the bundle has come back from it: it is no worker.
            _exit(WorkerExit.DONE)
        if any(_identity(descriptor) != before for descriptor, before in self._descriptors.items()):
            _exit(WorkerExit.DESCRIPTORS)


def _identity(descriptor: int) -> tuple[int, int, int] | None:
    try:
        status = _fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mode


def _folder() -> str | None:
    try:
        return _getcwd()
    except OSError:
        return None  # it was removed


def _put_back(name: str, entries: list[Any]) -> None:
    """Add what is missing in one of the lists of `sys`; what the bundle has added stays."""
    current: object = getattr(sys, name, None)
    if type(current) is not list:
        setattr(sys, name, entries)
        return
    there = set(map(id, current))
    current.extend(entry for entry in entries if id(entry) not in there)
