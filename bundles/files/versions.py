"""Versions of bundles: a name for the content of a bundle's files, and copies of the versions that are served.

A worker that replaces another serves the version that the pool serves, whatever has become of the bundle's files since:
half written, another version that nobody has asked for, removed. A reload loads the files that are there.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.bundles.files.discovery import Candidate
from tykpy.ipc.saved_versions import ASIDE, INDEX, copy_name
from tykpy.telemetry.log import Log

MAX_SIZE: Final = 32 << 20
"""Largest bundle that is saved, in bytes: the runtime folder often lies in memory."""
MAX_FILES: Final = 5_000
"""Largest number of files of a bundle that is saved."""

_CODE_SUFFIXES: Final = (".py", ".json", ".zip", ".so")
"""Files that make up a bundle; others may be data that it writes itself."""
_VERSION_DIGITS: Final = 12
_MAX_STAMPED_FILES: Final = 10_000
_MAX_READ: Final = 64 << 20
"""Bytes of a bundle that are read for its version, by each new worker: 50 ms. Files beyond that, as a rule data, are
told apart by inode and times."""
_SETTLED_NS: Final = 2_000_000_000
"""A file changed this recently may change again within one tick of its clock (FAT: 2 s): its digest is not cached."""
_IGNORED: Final = "__pycache__"
_log: Final = Log("tykpy.worker")


def version_of(path: Path) -> str:
    """Name the content of a bundle: the version changes when a file's name or content does, and only then.

    Files that have not changed since the last call are not read again.
    """
    return hashlib.sha256(repr(sorted(set(_stamps(path)))).encode()).hexdigest()[:_VERSION_DIGITS]


class VersionCopy(NamedTuple):
    """A copy of the version that is served, if the bundle's files have changed since."""

    place: Path
    """The copy: a folder or file of the bundle's own name."""
    version: str
    reason: str
    """What the bundle's description says about it."""


class VersionCopies:
    """The broker's folder of copies, and which of them are served. Without a folder there are none."""

    def __init__(self, folder: Path | None = None, served: Mapping[str, str] | None = None) -> None:
        """`served`: the versions to load in place of the files that are there, by the bundles' paths."""
        self._folder = folder
        self._served = dict(served or {})

    @classmethod
    def read(cls, folder: Path | None, *, pinned: bool) -> "VersionCopies":
        """Open the broker's folder; with `pinned`, load the versions that are served now."""
        if folder is None or not pinned:
            return cls(folder)
        try:
            served = json.loads((folder / INDEX).read_bytes())
        except (OSError, ValueError) as error:
            _log.debug("no version is served yet: %s", error)
            return cls(folder)
        return cls(folder, served if isinstance(served, dict) else None)

    def find(self, path: str, version: str) -> VersionCopy | None:
        """Return the version to load in place of the files that are there, or None.

        `path` is the one in the bundle's description, `version` names the files that are there.
        """
        served = self._served.get(path)
        if self._folder is None or served is None or served == version:
            return None
        return self._copy(path, served)

    def serves(self, path: str) -> bool:
        """Return whether a version of this bundle is to be loaded, whatever its files look like."""
        return path in self._served

    def missing(self, present: Container[str]) -> Iterator[tuple[str, Path]]:
        """Yield path and copy of each bundle that is served and no longer present."""
        for path, version in self._served.items():
            if path not in present and (saved := self._copy(path, version)) is not None:
                yield path, saved.place

    def save(self, candidate: Candidate, version: str, is_same: Callable[[], bool]) -> None:
        """Copy the files of a version that was loaded; `is_same` tells whether they still are that version."""
        if self._folder is None:
            return
        source, target = candidate.path, self._folder / copy_name(candidate.key, version)
        try:
            if not target.is_dir() and not _copy_aside(source, target, is_same):
                _log.info("bundle %s has changed since it was loaded: that version is not saved", source.name)
        except ValueError as error:
            _log.warning("bundle %s: %s; while its files are broken no worker can be replaced", source.name, error)
        except Exception as error:  # noqa: BLE001 (a bundle may have patched the modules that this uses)
            _log.warning("bundle %s: its files cannot be saved: %s", source.name, error)

    def _copy(self, path: str, version: str) -> VersionCopy | None:
        assert self._folder is not None
        folder = self._folder / copy_name(path, version)
        try:
            (name,) = os.listdir(folder)
            loaded = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime))
        except (OSError, ValueError):
            return None
        reason = f"serves the version of {loaded}, its files have changed since (tykpy reload loads them)"
        return VersionCopy(folder / name, version, reason)


def same_code(one: Path, other: Path) -> bool:
    """Return whether two versions have the same code; their data may differ."""
    try:
        return _code(one) == _code(other)
    except OSError:
        return False


def _code(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in _files(root)
        if file.name.endswith(_CODE_SUFFIXES) and stat.S_ISREG(file.stat().st_mode)
    }


def _copy_aside(source: Path, target: Path, is_same: Callable[[], bool]) -> bool:
    """Copy next to the target, then rename: a copy of the final name is complete, and of one version."""
    aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}keep-", dir=target.parent))
    try:
        _copy(source, aside / source.name)
        if not is_same():
            return False
        os.rename(aside, target)
    except OSError:
        if not target.is_dir():
            raise
        # Another worker was first; the name says that its content is the same.
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy a bundle's files. Raises ValueError if they are too many or too large."""
    size = 0
    if source.is_dir():
        target.mkdir()
    for count, file in enumerate(_files(source), 1):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            copy.symlink_to(file.resolve())
        elif stat.S_ISREG(status.st_mode):
            size += status.st_size
            if size > MAX_SIZE or count > MAX_FILES:
                raise ValueError(f"more than {MAX_SIZE >> 20} MiB or {MAX_FILES} files are not saved")
            shutil.copyfile(file, copy)


def _files(root: Path) -> Iterator[Path]:
    """Yield all files, and links to folders, at or below `root`."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, files in os.walk(root):
        if _IGNORED in folders:
            folders.remove(_IGNORED)
        yield from (Path(folder, name) for name in files)
        yield from (link for name in folders if (link := Path(folder, name)).is_symlink())


def _stamps(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yield path, size in bytes, and digest of each file."""
    left = _MAX_READ
    for file in islice(_files(path), _MAX_STAMPED_FILES):
        try:
            status = file.stat()
            if stat.S_ISDIR(status.st_mode):
                continue
            yield str(file), status.st_size, _digests.digest(file, status, left)
        except OSError:
            continue  # it vanished meanwhile: a version without it says so
        left -= status.st_size if status.st_size <= left else 0


class _Digests:
    """Digests of files, cached for as long as the files do not change.

    Modification time and size do not tell: archives unpack with fixed times. The time of the last change of any kind
    (ctime) is one that nobody can set, and a file that replaces another has another inode.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}

    def digest(self, path: Path, status: os.stat_result, most: int) -> str:
        """Return the digest of a file's content; above `most` bytes, what identifies the file. Raises OSError."""
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
