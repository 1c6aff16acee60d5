"""`tykpy bundle verify`: check everything that a gateway or a worker would check."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tykpy.bundles.errors import ArchiveError, KeyFileError, VerificationError
from tykpy.bundles.files.manifest import Manifest
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.files.verification import (
    Digests,
    check_boundaries,
    check_checksum,
    check_signature,
    check_unlisted,
    digests_of,
    unlisted,
)
from tykpy.commands.bundle.reading import manifest_of, unpacked
from tykpy.commands.errors import CommandError


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `passed` is None if it could not be checked, or does not matter."""

    passed: bool | None
    text: str

    def __str__(self) -> str:
        sign = {True: "ok", False: "FAILED", None: "note"}[self.passed]
        return f"{sign:<6} {self.text}"


def verify(bundle: Path, key_file: Path | None = None) -> Iterator[Check]:
    """Yield the results of checks, as far as they can be made. Raises CommandError if there is no bundle."""
    try:
        key = PublicKey.read(key_file) if key_file is not None else None
        with unpacked(bundle) as root:
            yield from _entries(bundle)
            yield from _contents(root, bundle, key)
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    except ArchiveError as error:
        yield Check(False, f"entries: {error.message}")


def _entries(bundle: Path) -> Iterator[Check]:
    if bundle.is_dir():
        return
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
    yield Check(True, f"entries: {len(names)}, none that leaves the folder, links or blows up")
    made: set[str] = set()
    for name in names:
        folder = str(PurePosixPath(name).parent)
        if folder not in (".", *made):
            yield Check(
                None, f"entries: {name} comes before an entry {folder}/, and gateways make no folders themselves"
            )
            return
        made.add(name.rstrip("/"))


def _contents(root: Path, bundle: Path, key: PublicKey | None) -> Iterator[Check]:
    try:
        manifest = manifest_of(root, bundle)
        digests = digests_of(root, manifest.file_list)
    except CommandError as error:
        yield Check(False, f"manifest: {error}")
        return
    except VerificationError as error:
        yield Check(False, f"files: {error.message}")
        return
    yield Check(True, f"files: {len(manifest.file_list)} in file_list, all there")
    yield _checksum(root, manifest, digests)
    if key is not None:
        yield _signature(root, manifest, digests, key)
        return
    yield Check(None, f"signature: {'there, not checked without --public-key' if manifest.signature else 'none'}")
    yield from (Check(None, f"files: {name} is not in file_list") for name in unlisted(root, manifest.file_list))


def _checksum(root: Path, manifest: Manifest, digests: Digests) -> Check:
    if not manifest.checksum:
        return Check(False, "checksum: there is none, so a gateway refuses the bundle; `tykpy bundle build` writes it")
    try:
        check_checksum(root, manifest, digests)
    except VerificationError as error:
        return Check(False, f"checksum: {error.message}")
    return Check(True, f"checksum: {manifest.checksum}")


def _signature(root: Path, manifest: Manifest, digests: Digests, key: PublicKey) -> Check:
    try:
        check_signature(root, manifest, digests, key)
        check_boundaries(root, digests)
        check_unlisted(root, manifest)
    except VerificationError as error:
        return Check(False, f"signature: {error.message}")
    if digests.has_index:
        return Check(True, "signature: by the key's owner, for these files and no others")
    return Check(
        True,
        "signature: by the key's owner, for these bytes; not for the files' names and where each ends, which only "
        "`tykpy bundle build --key` signs",
    )
