"""Read a bundle, a folder or ZIP, as a folder."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tykpy.bundles.errors import ArchiveError, BundleError
from tykpy.bundles.files.archive import unpack
from tykpy.bundles.files.manifest import MANIFEST_NAME, Manifest, read_manifest
from tykpy.bundles.files.verification import BYTECODE_FOLDER
from tykpy.commands.errors import CommandError


@contextlib.contextmanager
def opened(bundle: Path) -> Iterator[Path]:
    """Give the folder of a bundle; a ZIP is unpacked for the time of the block. Raises CommandError."""
    try:
        with unpacked(bundle) as root:
            yield root
    except ArchiveError as error:
        raise CommandError(f"{bundle}: {error.message}") from error


@contextlib.contextmanager
def unpacked(bundle: Path) -> Iterator[Path]:
    """Give the folder of a bundle, as `opened`; raises ArchiveError if a ZIP holds what no bundle may hold."""
    if bundle.is_dir():
        yield bundle
    elif bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="tykpy-bundle-") as folder:
            yield unpack(bundle, Path(folder))
    else:
        raise CommandError(f"{bundle}: no such file or folder")


def manifest_of(root: Path, bundle: Path) -> Manifest:
    """Read the manifest in a bundle's folder; errors name the bundle as it was given. Raises CommandError."""
    if not (root / MANIFEST_NAME).is_file():
        raise CommandError(f"{bundle}: there is no {MANIFEST_NAME} in it")
    try:
        return read_manifest(root / MANIFEST_NAME)
    except BundleError as error:
        raise CommandError(f"{bundle}: {MANIFEST_NAME}: {error.message}") from error


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files that may belong to a bundle, sorted: no hidden files, no bytecode."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and BYTECODE_FOLDER not in parts and not any(part.startswith(".") for part in parts):
            yield path


def packable(root: Path) -> list[str]:
    """Return the names of the files to pack into a bundle: all but the manifest."""
    names = (path.relative_to(root).as_posix() for path in files_below(root))
    return [name for name in names if name != MANIFEST_NAME]
