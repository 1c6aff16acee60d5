"""Finds what may be a bundle in a folder, under which hashes a gateway asks for it, and in which order its parts come.

| in the folder | is asked for by |
|---|---|
| folder with a name of 32 hex digits (a gateway's own) | that name |
| folder `foo` | MD5 of `foo` and of `foo.zip` |
| `foo.zip` | MD5 of `foo.zip` |
| `foo.py` with hooks | MD5 of `foo.py`, of `foo` and of `foo.zip` |
"""

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final

from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.ipc.description import MAX_NAME, MAX_PATH
from tykpy.ipc.text import bounded

EMPTY_NAME_HASH: Final = hashlib.md5(b"", usedforsecurity=False).hexdigest()
"""What a gateway sends for an API without a bundle."""

_HASH: Final = re.compile(r"[0-9a-f]{32}")
_MAX_ORDERED_PARTS: Final = 6
"""Parts whose order is worked out from the hash of their names: 720 tries; gateways have two or three."""
_MAX_STAMPED_FILES: Final = 10_000
_MAX_READ: Final = 64 << 20
"""Bytes of a bundle's files that are read for its stamp, which each new worker does: 50 ms. Files that would be more,
data as a rule, are known by their identity."""
_SETTLED_NS: Final = 2_000_000_000
"""A file changed this recently may change once more within one tick of its clock (FAT: 2 s): its digest is not kept."""

FileStamp = tuple[str, int, str]
"""A file's path, size in bytes, and digest."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder, ZIP or file that may be a bundle."""

    path: Path
    name: str
    hashes: tuple[str, ...]
    """Under which it is asked for; the first belongs to its own name, the others give way to those of that name."""
    place: Path
    """Where its files are; somewhere else than `path` for a version that was kept."""

    @property
    def key(self) -> str:
        """What its path is called in descriptions."""
        return key_of(self.path)

    @property
    def looks_whole(self) -> bool:
        """Worth loading before anybody asks: a folder without a manifest and without Python is something else."""
        try:
            if not self.path.is_dir() or (self.path / MANIFEST_NAME).is_file():
                return True
            return bool(part_folders(self.path)[0]) or next(self.path.glob("*.py"), None) is not None
        except OSError:
            return True  # loading it says what is wrong


def key_of(path: Path) -> str:
    """Return a bundle's path as text that any message can carry."""
    return bounded(str(path), MAX_PATH)


def name_hash(name: str) -> str:
    """Return the hash by which a gateway names a bundle."""
    return hashlib.md5(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def candidates(source: Path) -> Iterator[Candidate]:
    """Yield what may be a bundle in the folder `source`, or `source` itself if it is a bundle, ordered by name.

    Raises OSError where the folder cannot be read.
    """
    if source.is_file() or (source / MANIFEST_NAME).is_file():
        yield from _candidate(source)
        return
    for path in sorted(source.iterdir()):
        yield from _candidate(path)


def candidate_at(path: Path) -> Candidate | None:
    """Return what may be a bundle at this path."""
    return next(_candidate(path), None)


def part_folders(folder: Path) -> tuple[list[Path], bool]:
    """Return the sub-folders of a folder that stands for several bundles, and whether they are all, in the API's order.

    The folder's name is the MD5 of all names with commas between them: that tells. Where it does not (a part is not
    there yet, or has another ending), the order is that of the alphabet. No manifest in any of them: no parts.
    """
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_ignored(path.name))
    if not any((path / MANIFEST_NAME).is_file() for path in found):
        return [], False
    if len(found) <= _MAX_ORDERED_PARTS:
        for order in permutations(found):
            if _is_named(folder.name, order):
                return list(order), True
    return found, False


def stamp(path: Path) -> frozenset[FileStamp]:
    """Return what changes when any file below `path` does, and only then: the names and contents of all of them.

    Files that have not changed since the last time are not read again.
    """
    return frozenset(_stamps(path))


def _candidate(path: Path) -> Iterator[Candidate]:
    name = path.name
    if _is_ignored(name):
        return
    hashes: tuple[str, ...]
    if os.path.isdir(path):
        is_hash = _HASH.fullmatch(name.lower()) is not None
        hashes = (name.lower(),) if is_hash else (name_hash(name), name_hash(f"{name}.zip"))
    elif path.suffix == ".zip":
        hashes = (name_hash(name),)
    elif path.suffix == ".py":
        hashes = (name_hash(name), name_hash(path.stem), name_hash(f"{path.stem}.zip"))
    else:
        return
    yield Candidate(path, bounded(name, MAX_NAME), hashes, path)


def _is_named(name: str, order: Iterable[Path]) -> bool:
    for ending in (".zip", ""):
        joined = ",".join(path.name + ending for path in order)
        if name in (joined, name_hash(joined)):
            return True
    return False


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _stamps(path: Path) -> Iterator[FileStamp]:
    if not os.path.isdir(path):
        yield from _file_stamp(path, _MAX_READ)
        return
    count, left = 0, _MAX_READ
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for file in files:
            for found in _file_stamp(Path(folder, file), left):
                yield found
                left -= found[1] if found[1] <= left else 0
            count += 1
            if count >= _MAX_STAMPED_FILES:
                return


def _file_stamp(path: Path, most: int) -> Iterator[FileStamp]:
    try:
        status = path.stat()
        yield str(path), status.st_size, _digests.digest(path, status, most)
    except OSError:
        return  # it vanished while we looked: a stamp without it says so


class _Digests:
    """Digests of files, kept for as long as the files are what they were.

    Modification time and size do not tell: archives unpack with fixed times. The time of the last change of any kind
    (ctime) is one that nobody can set, and a file that takes another's place has another inode.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}

    def digest(self, path: Path, status: os.stat_result, most: int) -> str:
        """Return the digest of a file's content, or what identifies one above `most` bytes. Raises OSError."""
        identity = (status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
        if status.st_size > most or not stat.S_ISREG(status.st_mode):
            return repr(identity)
        known = self._known.get(path)
        if known is not None and known[0] == identity:
            return known[1]
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) > _SETTLED_NS:
            if len(self._known) >= _MAX_STAMPED_FILES:
                self._known.clear()
            self._known[path] = identity, found
        return found


_digests: Final = _Digests()
