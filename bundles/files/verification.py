"""Check that a bundle's files are those that its manifest was made for, and who signed it.

The gateway's checksum and signature cover the contents of the listed files, one after the other, but neither their
names nor where one ends and the next begins. `tykpy bundle build --key` therefore adds a file index as the last listed
file: names and sizes of all others, in order. It is signed with them and recognized by the last bytes of what is
signed, so it cannot be removed without the private key.

Where signatures are required, the bundle may have no other file: a `json.py` would be imported in place of Python's.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from tykpy.bundles.errors import SignatureError, VerificationError
from tykpy.bundles.files.manifest import MANIFEST_NAME, Manifest
from tykpy.bundles.files.signature import PublicKey
from tykpy.ipc.regular_file import open_regular
from tykpy.ipc.text import why_unread

BYTECODE_FOLDER: Final = "__pycache__"
"""Left by other interpreters; neither read nor written here."""

_CHUNK: Final = 1 << 20
INDEX_NAME: Final = "tykpy-index.json"
INDEX_END: Final = b'"tykpy_index": 1}\n'
"""The last bytes of every file index."""

_PROVIDED_MODULES: Final = sys.stdlib_module_names | {"gateway", "tyk"}
"""Top-level modules that every bundle can import; a file of such a name would hide one."""
_CODE: Final = frozenset({".py", ".pyc", ".so"})
_INDEX_ADVICE: Final = "remove it, or sign the bundle with its file names: tykpy bundle build --key PRIVATE.pem"

_MAX_NAMED: Final = 5
"""Files in an error message."""


@dataclass(slots=True)
class Digests:
    """Checksum and digests of a bundle's listed files."""

    checksum: str
    """MD5 in hex."""
    sha256: bytes
    """The digest that is signed."""
    files: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 of every listed file by its name."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of every listed file by its name, in the order of `file_list`."""
    end: bytes = b""
    """The last bytes of what is signed, as many as a file index ends with."""

    @property
    def has_index(self) -> bool:
        """Whether `tykpy bundle build` signed these files, including names and sizes."""
        return self.end == INDEX_END


def verify(root: Path, manifest: Manifest, public_key: PublicKey | None = None) -> Mapping[str, bytes] | None:
    """Check the files against the checksum; with a key, also the signature, and that there are no other files.

    Returns the SHA-256 of every file of a signed bundle, for checks of later imports.
    Raises VerificationError; SignatureError where the bundle is not signed by that key.
    """
    digests = digests_of(root, manifest.file_list)
    check_checksum(root, manifest, digests)
    if public_key is None:
        return None
    check_signature(root, manifest, digests, public_key)
    check_boundaries(root, digests)
    check_unlisted(root, manifest)
    return digests.files


def file_index(sizes: Mapping[str, int]) -> bytes:
    """Return the content of a file index: name and size in bytes of each other file, in the order of `file_list`."""
    return b'{"files": ' + json.dumps(sizes).encode() + b", " + INDEX_END


def digests_of(root: Path, file_list: tuple[str, ...]) -> Digests:
    """Read the listed files. Raises VerificationError if one cannot be read."""
    checksum, signed = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    files: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    end = b""
    for name in file_list:
        own = hashlib.sha256()
        sizes[name] = 0
        try:
            with open_regular(root / name) as file:
                while content := file.read(_CHUNK):
                    for digest in (checksum, signed, own):
                        digest.update(content)
                    sizes[name] += len(content)
                    end = (end + content[-len(INDEX_END) :])[-len(INDEX_END) :]
        except OSError as error:
            message = f"{name} is in file_list and cannot be read: {why_unread(error)}"
            raise VerificationError(message, str(root / MANIFEST_NAME)) from error
        files[name] = own.digest()
    return Digests(checksum.hexdigest(), signed.digest(), files, sizes, end)


def check_checksum(root: Path, manifest: Manifest, digests: Digests) -> None:
    """Raise VerificationError if the manifest has a checksum, and it is not that of the files."""
    if manifest.checksum and manifest.checksum != digests.checksum:
        message = f"the checksum is {manifest.checksum}, but the files of file_list have {digests.checksum}"
        raise VerificationError(message, str(root / MANIFEST_NAME))


def check_signature(root: Path, manifest: Manifest, digests: Digests, public_key: PublicKey) -> None:
    """Raise SignatureError if the files are not signed by this key."""
    if not manifest.signature:
        raise SignatureError(
            "the bundle is not signed; sign it: tykpy bundle build --key PRIVATE.pem", str(root / MANIFEST_NAME)
        )
    try:
        public_key.check(digests.sha256, manifest.signature)
    except SignatureError as error:
        raise SignatureError(error.message, str(root / MANIFEST_NAME)) from error


def check_boundaries(root: Path, digests: Digests) -> None:
    """Raise SignatureError if the listed files are not those that were signed, as far as that can be told.

    With a file index, names and sizes must match. Without one (signed by a gateway's own tools), refuse what an
    attacker can make of signed bytes by changing `file_list` alone, where it shows: empty modules, and modules that
    hide one of Python's or of tykpy's. A file that was cut in two does not show.
    """
    problem = _index_problem(digests) if digests.has_index else _unindexed_problem(digests)
    if problem:
        raise SignatureError(problem, str(root / MANIFEST_NAME))


def _index_problem(digests: Digests) -> str:
    others = {name: size for name, size in digests.sizes.items() if name != INDEX_NAME}
    if digests.files.get(INDEX_NAME) == hashlib.sha256(file_index(others)).digest():
        return ""
    return f"the names or sizes of the files in file_list are not those that were signed ({INDEX_NAME})"


def _unindexed_problem(digests: Digests) -> str:
    for name, size in digests.sizes.items():
        path = PurePosixPath(name)
        module = path.parts[0].partition(".")[0]
        if path.suffix in _CODE and module in _PROVIDED_MODULES:
            return f"{name} would hide the module {module}, and its name is not signed; {_INDEX_ADVICE}"
        if path.suffix == ".py" and not size and path.name != "__init__.py":
            return f"{name} is empty, so it may have been added by anybody; {_INDEX_ADVICE}"
    return ""


def check_unlisted(root: Path, manifest: Manifest) -> None:
    """Raise SignatureError if the bundle has files that the signature does not cover."""
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
