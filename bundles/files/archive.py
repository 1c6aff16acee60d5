"""Unpacks ZIP bundles.

Refused before anything is written: entries that leave the folder, links and devices, encrypted entries, two entries
of one name, and bombs.
"""

import hashlib
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from tykpy.bundles.errors import ArchiveError

MAX_ENTRIES: Final = 10_000
MAX_UNPACKED_SIZE: Final = 256 << 20
"""Bytes of all entries together."""
MAX_RATIO: Final = 200
"""Unpacked to packed size of one entry; text reaches 20, a bomb 1,000."""
RATIO_FREE_SIZE: Final = 1 << 20
"""Bytes below which the ratio does not matter."""

DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError,
    LookupError, NotImplementedError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""What `zipfile` raises for damaged or unusual archives, found by flipping bits."""

_CHUNK: Final = 1 << 16
_DIGEST_LENGTH: Final = 16


def unpack(archive: Path, into: Path) -> Path:
    """Unpack `archive` into a folder of its own below `into`, named by its content, and return that folder.

    Raises ArchiveError.
    """
    try:
        with archive.open("rb") as file:
            target = into / unpacked_name(archive, file)
            with zipfile.ZipFile(file) as opened:
                extract(opened, archive, target)
    except DAMAGE as error:
        raise ArchiveError(f"not a ZIP that can be unpacked: {error}", str(archive)) from error
    return target


def unpacked_name(archive: Path, file: BinaryIO) -> str:
    """Return the name of the folder for the content of `archive`, open as `file`."""
    digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_LENGTH]  # type: ignore[arg-type]
    file.seek(0)
    return f"{archive.stem}-{digest}"


def extract(opened: zipfile.ZipFile, archive: Path, target: Path) -> None:
    """Unpack next to `target`, then rename: a folder of that name is never half written. Raises ArchiveError."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        check_entries(opened.infolist(), str(archive))
        for entry in opened.infolist():
            _write_entry(opened, entry, aside)
        os.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def holds(folder: Path, opened: zipfile.ZipFile) -> bool:
    """Tell whether a folder has all that is in an archive, as it is there."""
    return all(_holds_entry(folder / entry.filename, entry) for entry in opened.infolist())


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


def _holds_entry(place: Path, entry: zipfile.ZipInfo) -> bool:
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


def _write_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    place = folder / entry.filename
    if entry.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, place.open("xb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
