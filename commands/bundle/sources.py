"""A bundle from wherever it lies, folder, ZIP or file, as a folder that can be read."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.archive import unpack
from tykpy.bundles.files.manifest import MANIFEST_NAME, Manifest, read_manifest
from tykpy.bundles.files.verification import BYTECODE_FOLDER
from tykpy.commands.errors import CommandError


@contextlib.contextmanager
def opened(bundle: Path) -> Iterator[Path]:
    """Give the folder of a bundle; a ZIP is unpacked into one that is removed again.

    Raises CommandError where there is none; ArchiveError where the ZIP holds what no bundle may hold.
    """
    if bundle.is_dir():
        yield bundle
    elif bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="tykpy-bundle-") as folder:
            yield unpack(bundle, Path(folder))
    else:
        raise CommandError(f"{bundle}: no such folder or ZIP")


def manifest_of(root: Path, bundle: Path) -> Manifest:
    """Read the manifest in a bundle's folder; errors name the bundle as it was given. Raises CommandError."""
    if not (root / MANIFEST_NAME).is_file():
        raise CommandError(f"{bundle}: there is no {MANIFEST_NAME} in it")
    try:
        return read_manifest(root / MANIFEST_NAME)
    except BundleError as error:
        raise CommandError(f"{bundle}: {MANIFEST_NAME}: {error.message}") from error


def files_below(root: Path) -> Iterator[str]:
    """Yield the files that may belong into a bundle: no hidden ones, no bytecode, not the manifest."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") or part == BYTECODE_FOLDER for part in name.parts)
        if path.is_file() and not hidden and str(name) != MANIFEST_NAME:
            yield name.as_posix()
