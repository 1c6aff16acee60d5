"""Writes a bundle's ZIP: the same bytes for the same files, whenever and wherever it is built."""

import contextlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from tykpy.bundles.errors import ArchiveError
from tykpy.bundles.files.archive import check_entries
from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.commands.errors import CommandError

_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The first that a ZIP can hold."""
_UNIX: Final = 3
_FOLDER_ATTRIBUTE: Final = 0x10
_MODE_SHIFT: Final = 16


def write_zip(output: Path, manifest: bytes, contents: Mapping[str, bytes], *, compress: bool = False) -> None:
    """Write a ZIP in place of `output`, by one rename.

    Entries are stored as they are unless `compress`: compressed bytes depend on the version of zlib.
    Raises CommandError where workers would refuse the outcome.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with _aside(output) as aside:
        with zipfile.ZipFile(aside, "w", method, compresslevel=9 if compress else None) as opened:
            for entry, content in _entries(manifest, contents, method):
                opened.writestr(entry, content)
            try:
                check_entries(opened.infolist(), str(output))
            except ArchiveError as error:
                raise CommandError(f"{error}; workers would refuse it") from error
        os.replace(aside, output)


def write_folder(output: Path, manifest: bytes, contents: Mapping[str, bytes]) -> None:
    """Write the files into a new folder. Raises CommandError where there is something already."""
    if output.exists():
        raise CommandError(f"{output} is there already")
    for name, content in {**contents, MANIFEST_NAME: manifest}.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _entries(manifest: bytes, contents: Mapping[str, bytes], method: int) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    """Yield folders, then files: the gateway makes each folder when it comes by its entry, and none by itself."""
    for folder in _folders(contents):
        entry = zipfile.ZipInfo(f"{folder}/", _TIME)
        entry.external_attr = (stat.S_IFDIR | 0o755) << _MODE_SHIFT | _FOLDER_ATTRIBUTE
        entry.create_system = _UNIX
        yield entry, b""
    for name, content in {MANIFEST_NAME: manifest, **contents}.items():
        entry = zipfile.ZipInfo(name, _TIME)
        entry.external_attr = (stat.S_IFREG | 0o644) << _MODE_SHIFT
        entry.create_system = _UNIX
        entry.compress_type = method
        yield entry, content


def _folders(names: Iterable[str]) -> list[str]:
    """Return all folders of the files, outer ones first."""
    parents = {parent for name in names for parent in PurePosixPath(name).parents}
    return sorted(str(parent) for parent in parents if parent.name)


@contextlib.contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """Give a file next to the output that is gone in the end, whatever happens."""
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{output.name}-", dir=output.parent)
    os.fchmod(descriptor, 0o644)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
