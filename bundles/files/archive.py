"""ZIP bundles: what they may hold, and the folder in which their unpacked copies lie.

Refused before anything is written: entries that leave the folder, links and devices, encrypted entries, two entries of
one name, and bombs.

There is one unpacked copy per content, shared by all workers that use it. A worker holds a shared lock (flock) on each
copy that it uses; the lock ends with the worker, however that ends. Adding and removing copies takes the exclusive lock
on the folder above them, and a locked copy is never removed.
"""

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from shutil import copyfileobj, rmtree  # by name, as flock and ZipFile: a bundle may have replaced them
from tempfile import mkdtemp
from typing import Final
from zipfile import ZipFile

from tykpy.bundles.errors import ArchiveError
from tykpy.ipc.regular_file import open_regular

MAX_ENTRIES: Final = 10_000
MAX_UNPACKED_SIZE: Final = 256 << 20
"""Bytes of all entries together."""
MAX_RATIO: Final = 200
"""Unpacked to packed size of one entry: text reaches 20, a bomb 1,000."""
RATIO_FREE_SIZE: Final = 1 << 20
"""Entries of fewer bytes may have any ratio."""

_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError,
    LookupError, NotImplementedError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""What `zipfile` raises for damaged or unusual archives, found by flipping bits."""
_CHUNK: Final = 1 << 16
_DIGEST_LENGTH: Final = 16
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = ".old-"
"""Prefix of the folders in which damaged copies are removed."""


def unpack(archive: Path, into: Path) -> Path:
    """Unpack an archive into a new folder below `into`, and return that folder. Raises ArchiveError."""
    with _opened(archive) as (opened, name):
        _extract(opened, archive, into / name)
        return into / name


def read_through(archive: Path) -> None:
    """Read all entries of an archive, by what unpacking it needs, and write nothing. Raises ArchiveError."""
    with _opened(archive) as (opened, _):
        check_entries(opened.infolist(), str(archive))
        for entry in opened.infolist():
            with opened.open(entry) as source:
                source.read()


class UnpackedCopy:
    """An unpacked bundle that stays in place until `close`, or until the process ends."""

    __slots__ = ("_lock", "root")

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock

    def close(self) -> None:
        """Allow its removal."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class UnpackedFolder:
    """The folder with all unpacked bundles of a broker's workers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, archive: Path) -> UnpackedCopy:
        """Return a complete copy of an archive's files, unpacking it if there is none. Raises ArchiveError."""
        with _opened(archive) as (opened, name):
            root = self._path / name
            return self._whole_copy(root, opened) or self._new_copy(root, opened, archive)

    def sweep(self) -> None:
        """Remove copies that no worker uses, and leftovers of workers that died while unpacking."""
        if not self._path.is_dir():
            return
        with _locked(self._path, LOCK_EX):
            for child in self._path.iterdir():
                with _locked(child, LOCK_EX | LOCK_NB) as lock:
                    if lock is not None:
                        rmtree(child, ignore_errors=True)

    def _whole_copy(self, root: Path, opened: ZipFile) -> UnpackedCopy | None:
        with _locked(root, LOCK_SH) as lock:
            # While we waited for the lock, another folder may have taken this one's place.
            if lock is None or not _is_at(root, lock) or not _is_complete(root, opened):
                return None
            return UnpackedCopy(root, os.dup(lock))

    def _new_copy(self, root: Path, opened: ZipFile, archive: Path) -> UnpackedCopy:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._path, LOCK_EX):
            copy = self._whole_copy(root, opened)  # another worker may have been first
            if copy is None:
                self._remove_damaged(root)
                _extract(opened, archive, root)
                copy = self._whole_copy(root, opened)
        if copy is None:
            raise ArchiveError(f"its files in {root} are not those in it as soon as they are unpacked", str(archive))
        return copy

    def _remove_damaged(self, root: Path) -> None:
        """Make room at the copy's path; its users will find a complete copy there in a moment."""
        if os.path.lexists(root):
            aside = mkdtemp(prefix=_OLD, dir=self._path)
            os.rename(root, os.path.join(aside, root.name))
            rmtree(aside, ignore_errors=True)


def check_entries(entries: Iterable[zipfile.ZipInfo], archive: str) -> None:
    """Refuse what no bundle may hold. Raises ArchiveError naming the entry."""
    seen: set[str] = set()
    total = 0
    for count, entry in enumerate(entries, 1):
        reason = _refusal(entry, seen)
        if reason:
            raise ArchiveError(f"entry {entry.filename!r} {reason}", archive)
        total += entry.file_size
        if count > MAX_ENTRIES:
            raise ArchiveError(f"more than {MAX_ENTRIES} entries", archive)
        if total > MAX_UNPACKED_SIZE:
            raise ArchiveError(f"unpacks to more than {MAX_UNPACKED_SIZE} bytes", archive)


def _refusal(entry: zipfile.ZipInfo, seen: set[str]) -> str:
    name = entry.filename
    parts = name.split("/")
    if not name:
        return "has no name"
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        return "leaves the bundle's folder"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is neither a file nor a folder"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if name.rstrip("/") in seen:
        return "is there twice"
    seen.add(name.rstrip("/"))
    if entry.file_size > RATIO_FREE_SIZE and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        return f"unpacks to more than {MAX_RATIO} times its size"
    return ""


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[ZipFile, str]]:
    """Open an archive, and name the folder for its content. Turns all that `zipfile` raises into ArchiveError."""
    try:
        with open_regular(archive) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_LENGTH]
            with ZipFile(file) as opened:
                yield opened, f"{archive.stem}-{digest}"
    except _DAMAGE as error:
        raise ArchiveError(f"not a ZIP that can be unpacked: {error}", str(archive)) from error


def _extract(opened: ZipFile, archive: Path, target: Path) -> None:
    """Unpack next to `target`, then rename: a folder of that name is never half written. Raises ArchiveError."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        check_entries(opened.infolist(), str(archive))
        for entry in opened.infolist():
            _write_entry(opened, entry, aside)
        os.rename(aside, target)
    finally:
        rmtree(aside, ignore_errors=True)


def _write_entry(opened: ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    place = folder / entry.filename
    if entry.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, place.open("xb") as copy:
        copyfileobj(source, copy, _CHUNK)


def _is_complete(folder: Path, opened: ZipFile) -> bool:
    """Return whether a folder has every entry of an archive, unchanged."""
    return all(_has_entry(folder / entry.filename, entry) for entry in opened.infolist())


def _has_entry(place: Path, entry: zipfile.ZipInfo) -> bool:
    try:
        if entry.is_dir():
            return place.is_dir()
        found = place.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.file_size:
            return False
        with place.open("rb") as file:
            checksum = 0
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:
        return False
    return checksum == entry.CRC


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[int | None]:
    """Open and lock a folder; None if it does not exist, or is in use and `how` does not wait."""
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        yield None
        return
    try:
        try:
            flock(descriptor, how)
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
