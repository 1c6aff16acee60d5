"""Copies of the bundle versions that are served, for workers that are started while other files are there.

A worker that replaces another serves the version that the pool serves, whatever lies in the bundle's place meanwhile:
a file that is half written, another version that nobody has asked for, nothing. A reload loads what is there.
"""

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.bundles.files.discovery import Candidate
from tykpy.ipc.kept import ASIDE, INDEX, copy_name
from tykpy.telemetry.log import Log

MAX_SIZE: Final = 32 << 20
"""Bytes of a bundle that are kept at most: the runtime folder often lies in memory."""
MAX_FILES: Final = 5_000
CODE_SUFFIXES: Final = (".py", ".json", ".zip", ".so")
"""Files that make up a bundle; others may be what it writes itself."""

_IGNORED: Final = "__pycache__"
_log: Final = Log("tykpy.worker")


class SavedVersion(NamedTuple):
    """A version that is served, and other files are in its place."""

    place: Path
    """The copy: a folder or file of the bundle's own name."""
    version: str
    reason: str
    """What to say about it."""


class SavedVersions:
    """The copies, and which of them are served. Without a folder there are none."""

    def __init__(self, folder: Path | None = None, served: Mapping[str, str] | None = None) -> None:
        """`served`: versions by the paths of bundles, where these are to be loaded."""
        self._folder = folder
        self._served = dict(served or {})

    @classmethod
    def read(cls, folder: Path | None, *, pinned: bool) -> "SavedVersions":
        """Open the broker's folder; with `pinned` the versions that are served now are those to load."""
        if folder is None or not pinned:
            return cls(folder)
        try:
            served = json.loads((folder / INDEX).read_bytes())
        except (OSError, ValueError) as error:
            _log.debug("no version is served yet: %s", error)
            return cls(folder)
        return cls(folder, served if isinstance(served, dict) else None)

    def find(self, path: str, version: str) -> SavedVersion | None:
        """Return what to load in place of this version; None: nothing else.

        `path` is that of the bundle's description, `version` that of the files that are there.
        """
        served = self._served.get(path)
        if self._folder is None or served is None or served == version:
            return None
        return self._copy(path, served)

    def serves(self, path: str) -> bool:
        """Whether a version of this bundle is to be loaded, whatever its files look like."""
        return path in self._served

    def missing(self, present: Container[str]) -> Iterator[tuple[str, Path]]:
        """Yield the bundles that are served and not there any more, with their copies."""
        for path, version in self._served.items():
            if path not in present and (kept := self._copy(path, version)) is not None:
                yield path, kept.place

    def keep(self, candidate: Candidate, version: str, is_same: Callable[[], bool]) -> None:
        """Keep the files of a version that was loaded; `is_same`: they are still that version."""
        if self._folder is None:
            return
        source, target = candidate.path, self._folder / copy_name(candidate.key, version)
        try:
            if not target.is_dir() and not _copy_aside(source, target, is_same):
                _log.info("bundle %s has changed since it was loaded: that version is not kept", source.name)
        except ValueError as error:
            _log.warning("bundle %s: %s; while its files are broken no worker can be replaced", source.name, error)
        except Exception as error:  # noqa: BLE001 (also what a bundle made of the modules that this stands on)
            _log.warning("bundle %s: its files cannot be kept: %s", source.name, error)

    def _copy(self, path: str, version: str) -> SavedVersion | None:
        assert self._folder is not None
        folder = self._folder / copy_name(path, version)
        try:
            (name,) = os.listdir(folder)
            loaded = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime))
        except (OSError, ValueError):
            return None
        reason = f"serves the version of {loaded}, its files have changed since (tykpy reload loads them)"
        return SavedVersion(folder / name, version, reason)


def same_code(one: Path, other: Path) -> bool:
    """Whether both have the same code; data may differ."""
    try:
        return _code(one) == _code(other)
    except OSError:
        return False


def _code(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in _files(root)
        if file.name.endswith(CODE_SUFFIXES) and stat.S_ISREG(file.stat().st_mode)
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
    """Copy what the bundle consists of. Raises ValueError where that is too much."""
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
                raise ValueError(f"more than {MAX_SIZE >> 20} MiB or {MAX_FILES} files are not kept")
            shutil.copyfile(file, copy)


def _files(root: Path) -> Iterator[Path]:
    """All files, and links to folders, at or below `root`."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, files in os.walk(root):
        if _IGNORED in folders:
            folders.remove(_IGNORED)
        yield from (Path(folder, name) for name in files)
        yield from (link for name in folders if (link := Path(folder, name)).is_symlink())
