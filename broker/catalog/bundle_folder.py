"""The entries of the folder of bundles: their names, and stamps that tell whether an entry has changed.

Files are not read: a file that was replaced has another inode, and one that was written to has another time of change
(ctime), which nobody can set; modification time and size may stay the same, since archives may unpack with fixed times.
While no entry is added or removed, a check costs one stat of the folder, plus a look at a few entries in turn.
"""

import os
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from tykpy.ipc.text import why_unread

MANIFEST_NAME: Final = "manifest.json"
SUFFIXES: Final = (".py", ".json", ".zip", ".so")
"""Files that make up a bundle; others that a plugin writes beside them do not count."""
BUNDLE_SUFFIXES: Final = (".py", ".zip")
"""Files that may each be a bundle."""
MAX_LOOKED_AT: Final = 10_000
"""Most files and folders below an entry that are looked at, of any kind: a check must not block the event loop."""
CHECKED_AT_ONCE: Final = 20
"""Entries that one check looks at for changes: a few hundred files at most, a millisecond."""
SETTLED_NS: Final = 2_000_000_000
"""A folder changed this recently may change again within one tick of its clock (FAT: 2 s) and look the same."""

_FileStamp = tuple[str, int, int, int, int]
Stamp = frozenset[_FileStamp]


def stamp_of(folder: Path) -> Stamp:
    """Return the identities of the files below a folder; files that vanish meanwhile are left out."""
    found: set[_FileStamp] = set()
    for entry in islice(_entries_below(folder), MAX_LOOKED_AT):
        if entry.name.endswith(SUFFIXES) and not _is_hidden(entry.name):
            found |= stamp_of_file(entry.path)
    return frozenset(found)


def _entries_below(folder: Path) -> Iterator["os.DirEntry[str]"]:
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False) and not _is_hidden(entry.name):
                    folders.append(entry.path)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def stamp_of_file(path: str | Path) -> Stamp:
    """Return the identity of one file, or nothing if it does not exist or is a folder."""
    try:
        status = os.stat(path)
    except OSError:
        return frozenset()
    if stat.S_ISDIR(status.st_mode):
        return frozenset()
    return frozenset({(str(path), status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)})


Entries = Mapping[str, Stamp]
"""Stamps by name; a folder that is itself a bundle has one entry with an empty name."""


class BundleFolder:
    """The folder given as `--bundles`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, Stamp] = {}
        self._seen: tuple[int, int] | None = None
        self._next = 0
        self.unreadable = ""
        """Why nothing is found in it."""

    def look(self, again: Collection[str] = ()) -> Entries:
        """Return the entries; those named in `again`, and the next few, are checked for changes."""
        before, self._seen = self._seen, self._changed_at()
        if self._seen != before or time.time_ns() - self._seen[1] < SETTLED_NS:
            self._found = {name: self._found.get(name) or self._stamp(name) for name in self._names()}
        names = list(self._found)
        checked = [names[(self._next + at) % len(names)] for at in range(min(CHECKED_AT_ONCE, len(names)))]
        self._next += len(checked)
        for name in {*checked, *again} & self._found.keys():
            self._found[name] = self._stamp(name)
        return dict(self._found)

    def is_whole(self, name: str) -> bool:
        """Return whether an entry can be loaded: a gateway makes a folder first, and fills it afterwards."""
        path = self._folder / name
        try:
            if not os.path.isdir(path) or (path / MANIFEST_NAME).exists():
                return True
            found = islice(path.iterdir(), MAX_LOOKED_AT)
            return any(one.suffix == ".py" or (one / MANIFEST_NAME).is_file() for one in found)
        except OSError:
            return True  # loading it reports what is wrong

    def _changed_at(self) -> tuple[int, int]:
        try:
            status = os.stat(self._folder)
        except OSError:
            return 0, 0
        return status.st_ino, max(status.st_mtime_ns, status.st_ctime_ns)

    def _names(self) -> list[str]:
        self.unreadable = ""
        try:
            if (self._folder / MANIFEST_NAME).is_file():
                return [""]
            with os.scandir(self._folder) as entries:
                return sorted(entry.name for entry in entries if _may_be_bundle(entry))
        except FileNotFoundError:
            self.unreadable = "there is no such folder yet; waiting for it"
        except OSError as error:
            self.unreadable = f"cannot be read: {why_unread(error)}"
        return []

    def _stamp(self, name: str) -> Stamp:
        path = self._folder / name
        # Not `Path.is_dir`, which raises where the folder may not be searched.
        return stamp_of(path) if os.path.isdir(path) else stamp_of_file(path)


def _may_be_bundle(entry: "os.DirEntry[str]") -> bool:
    if _is_hidden(entry.name):
        return False
    # Not `DirEntry.is_dir`, which raises for a link to itself.
    return entry.name.endswith(BUNDLE_SUFFIXES) or os.path.isdir(entry.path)
