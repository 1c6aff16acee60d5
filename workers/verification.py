"""Checks that a bundle's files are those its manifest was made for, and who made it.

The gateway's checksum and signature cover the contents of the listed files, one after the other. Where signatures
count, nothing else may be in the bundle either: a `json.py` next to them would be imported in place of Python's.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from workers.errors import SignatureError, VerificationError
from workers.manifest import MANIFEST_NAME, Manifest
from workers.signature import PublicKey

BYTECODE_FOLDER: Final = "__pycache__"
"""Somebody else's interpreter may have left it; it is neither read nor written here."""

_MAX_NAMED: Final = 5
"""Files in an error message."""


@dataclass(slots=True)
class Digests:
    """What a manifest says of its files, worked out from the files."""

    checksum: str
    """MD5 in hex."""
    sha256: bytes
    """What is signed."""
    files: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 of every listed file by its name."""


def verify(root: Path, manifest: Manifest, public_key: PublicKey | None = None) -> Mapping[str, bytes] | None:
    """Check the files, and with a key the signature and that there is nothing else.

    Returns the SHA-256 of every file where it is known who made them: what is imported later has to have it.
    Raises VerificationError; SignatureError where the bundle is not signed by that key.
    """
    digests = digests_of(root, manifest.file_list)
    check_checksum(root, manifest, digests)
    if public_key is None:
        return None
    check_signature(root, manifest, digests, public_key)
    check_unlisted(root, manifest)
    return digests.files


def digests_of(root: Path, file_list: tuple[str, ...]) -> Digests:
    """Read the listed files. Raises VerificationError where one cannot be read."""
    checksum, signed = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    files: dict[str, bytes] = {}
    for name in file_list:
        try:
            content = (root / name).read_bytes()
        except OSError as error:
            message = f"{name} is in file_list and cannot be read: {error.strerror}"
            raise VerificationError(message, str(root / MANIFEST_NAME)) from error
        checksum.update(content)
        signed.update(content)
        files[name] = hashlib.sha256(content).digest()
    return Digests(checksum.hexdigest(), signed.digest(), files)


def check_checksum(root: Path, manifest: Manifest, digests: Digests) -> None:
    """Raise VerificationError where the manifest's checksum, if it has one, is not that of the files."""
    if manifest.checksum and manifest.checksum != digests.checksum:
        message = f"the checksum is {manifest.checksum}, but the files of file_list have {digests.checksum}"
        raise VerificationError(message, str(root / MANIFEST_NAME))


def check_signature(root: Path, manifest: Manifest, digests: Digests, public_key: PublicKey) -> None:
    """Raise SignatureError where the files are not signed by this key."""
    if not manifest.signature:
        raise SignatureError(
            "the bundle is not signed; sign it: tykpy bundle build --key PRIVATE.pem", str(root / MANIFEST_NAME)
        )
    try:
        public_key.check(digests.sha256, manifest.signature)
    except SignatureError as error:
        raise SignatureError(error.message, str(root / MANIFEST_NAME)) from error


def check_unlisted(root: Path, manifest: Manifest) -> None:
    """Raise SignatureError where there are files that the signature does not cover."""
    others = unlisted(root, manifest.file_list)
    if others:
        named = ", ".join(others[:_MAX_NAMED]) + (" and others" if len(others) > _MAX_NAMED else "")
        raise SignatureError(f"not in file_list, so nobody signed it: {named}", str(root / MANIFEST_NAME))


def unlisted(root: Path, file_list: tuple[str, ...]) -> list[str]:
    """Return the files below `root` that the manifest does not list, and folders that are links."""
    return sorted(set(_entries(root)) - {*file_list, MANIFEST_NAME})


def _entries(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        below = PurePosixPath(Path(folder).relative_to(root))
        if BYTECODE_FOLDER in folders:
            folders.remove(BYTECODE_FOLDER)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (str(below / name) for name in [*files, *links])
