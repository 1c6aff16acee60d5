"""Unpacks ZIP bundles, once per content, however many workers do it at the same moment.

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
from typing import IO, Final

from workers.errors import ArchiveError

MAX_ENTRIES: Final = 10_000
MAX_UNPACKED_SIZE: Final = 256 << 20
"""Bytes of all entries together."""
MAX_RATIO: Final = 200
"""Unpacked to packed size of one entry; text reaches 20, a bomb 1,000."""
RATIO_FREE_SIZE: Final = 1 << 20
"""Bytes below which the ratio does not matter."""

_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError,
    LookupError, NotImplementedError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""What `zipfile` raises for damaged or unusual archives, found by flipping bits."""

_CHUNK: Final = 1 << 16
_DIGEST_LENGTH: Final = 16


def unpack(archive: Path, into: Path) -> Path:
    """Unpack `archive` into a folder of its own below `into`, named by its content, and return that folder.

    A folder that is there already is complete: it appears by one rename. Raises ArchiveError.
    """
    try:
        with archive.open("rb") as file:
            target = into / f"{archive.stem}-{_digest(file)}"
            if not target.is_dir():
                _unpack_aside(file, archive, target)
    except _DAMAGE as error:
        raise ArchiveError(f"not a ZIP that can be unpacked: {error}", str(archive)) from error
    return target


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


def _unpack_aside(file: IO[bytes], archive: Path, target: Path) -> None:
    """Unpack next to the target, then rename: a folder of the final name is never half written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        with zipfile.ZipFile(file) as opened:
            check_entries(opened.infolist(), str(archive))
            for entry in opened.infolist():
                _write_entry(opened, entry, aside)
        _rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    place = folder / entry.filename
    if entry.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, place.open("xb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)


def _rename(aside: Path, target: Path) -> None:
    try:
        os.rename(aside, target)
    except OSError:
        if not target.is_dir():
            raise
        # Another worker was first; the name says that its content is the same.


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_LENGTH]  # type: ignore[arg-type]
    file.seek(0)
    return digest
