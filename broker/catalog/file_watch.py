"""Watches the bundles' files for `--reload`: looks at them every half second, and reloads when they have settled.

They are not read: a file that was replaced has another inode, and one that was written to another time of change
(ctime), which nobody can set; modification time and size may be the same, as archives with fixed times unpack.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tykpy.broker.faults import Periodic

LOOK_INTERVAL: Final = 0.5
"""Seconds."""
SUFFIXES: Final = (".py", ".json", ".zip", ".so")
"""Files that make up a bundle; what a plugin writes beside them is its own affair."""
MAX_FILES: Final = 20_000
"""A look must not keep the event loop: what is beyond is not watched."""

FileStamp = tuple[str, int, int, int, int]
Stamp = frozenset[FileStamp]


class ContentWatch:
    """Calls `changed` once the files have changed, and then stayed the same from one look to the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._folder = folder
        self._changed = changed
        self._told = self._last = stamp_of(folder)

    def start(self) -> None:
        """Look again and again from now on."""
        Periodic(self._loop, LOOK_INTERVAL, self._look).start()

    def _look(self) -> None:
        self.compare(stamp_of(self._folder))

    def compare(self, stamp: Stamp) -> None:
        """Take one look's result into account: a copy that is under way changes from look to look."""
        settled = stamp == self._last
        self._last = stamp
        if settled and stamp != self._told:
            self._told = stamp
            self._changed()


def stamp_of(folder: Path) -> Stamp:
    """What tells all files below from others that may take their places; those that vanish meanwhile are left out."""
    found: set[FileStamp] = set()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in files:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                found |= stamp_of_file(os.path.join(parent, name))
        if len(found) >= MAX_FILES:
            break
    return frozenset(found)


def stamp_of_file(path: str | Path) -> Stamp:
    """The same for one file; nothing where it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return frozenset()
    return frozenset({(str(path), status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)})
