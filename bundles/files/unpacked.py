"""The folder below which ZIP bundles are unpacked: one folder per content, shared by all workers that use it.

A worker holds a shared lock (flock) on each folder that it uses; whatever ends the worker ends the lock. Whoever adds
or removes folders holds the exclusive lock on the folder above them, and removes none that is locked.
"""

import fcntl
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tykpy.bundles.errors import ArchiveError
from tykpy.bundles.files.archive import DAMAGE, extract, holds, unpacked_name

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = ".old-"
"""Begins the names of folders in which damaged copies are removed."""


class UnpackedCopy:
    """An unpacked bundle that stays where it is until `close`, or the end of the process."""

    __slots__ = ("_lock", "root")

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock

    def close(self) -> None:
        """Let it be removed."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class UnpackedFolder:
    """All unpacked bundles of a broker's workers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, archive: Path) -> UnpackedCopy:
        """Return a whole copy of what is in `archive`, unpacked now if there is none. Raises ArchiveError."""
        try:
            with archive.open("rb") as file:
                root = self._path / unpacked_name(archive, file)
                with zipfile.ZipFile(file) as opened:
                    return self._whole_copy(root, opened) or self._new_copy(root, opened, archive)
        except DAMAGE as error:
            raise ArchiveError(f"not a ZIP that can be unpacked: {error}", str(archive)) from error

    def sweep(self) -> None:
        """Remove copies that no worker uses, and what workers have left that died while they unpacked."""
        if not self._path.is_dir():
            return
        with self._exclusive():
            for child in self._path.iterdir():
                with _locked(child, fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
                    if lock is not None:
                        shutil.rmtree(child, ignore_errors=True)

    def _whole_copy(self, root: Path, opened: zipfile.ZipFile) -> UnpackedCopy | None:
        with _locked(root, fcntl.LOCK_SH) as lock:
            # While we waited for the lock another folder may have taken this one's place.
            if lock is None or not _is_at(root, lock) or not holds(root, opened):
                return None
            return UnpackedCopy(root, os.dup(lock))

    def _new_copy(self, root: Path, opened: zipfile.ZipFile, archive: Path) -> UnpackedCopy:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._exclusive():
            copy = self._whole_copy(root, opened)  # somebody else was first
            if copy is None:
                self._remove_damaged(root)
                extract(opened, archive, root)
                copy = self._whole_copy(root, opened)
        if copy is None:
            raise ArchiveError(f"its files in {root} are not those in it as soon as they are unpacked", str(archive))
        return copy

    def _remove_damaged(self, root: Path) -> None:
        """Make room: whoever uses the copy finds a whole one at its path in a moment."""
        if os.path.lexists(root):
            aside = tempfile.mkdtemp(prefix=_OLD, dir=self._path)
            os.rename(root, os.path.join(aside, root.name))
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with _locked(self._path, fcntl.LOCK_EX):
            yield


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[int | None]:
    """Open and lock a folder; None where there is none, or it is not to be waited for and in use."""
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield None
            return
        yield descriptor
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False
