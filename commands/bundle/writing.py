"""Write a bundle: its manifest, with file list, checksum and signature, and its ZIP or folder.

The same files give the same bytes, whenever and wherever they are built.
"""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tykpy.bundles.errors import ArchiveError, ManifestError
from tykpy.bundles.files.archive import check_entries
from tykpy.bundles.files.manifest import HOOK_TYPES, MANIFEST_NAME, parse_manifest
from tykpy.bundles.files.signature import PrivateKey
from tykpy.commands.errors import CommandError
from tykpy.ipc.regular_file import read_regular

_EXTRACTOR_FIELDS: Final = ("extract_from", "extract_with")
_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP can hold."""
_UNIX: Final = 3
_FOLDER_ATTRIBUTE: Final = 0x10
_MODE_SHIFT: Final = 16


def read_fields(root: Path) -> dict[str, Any]:
    """Read all fields of a manifest, known or not.

    Raises CommandError with everything that a gateway would miss or not understand.
    """
    path = root / MANIFEST_NAME
    try:
        content = read_regular(path)
        parse_manifest(content, str(path))
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror}") from error
    except ManifestError as error:
        raise CommandError(str(error)) from error
    fields: dict[str, Any] = json.loads(content.decode("utf-8-sig"))
    problems = list(_problems(fields))
    if problems:
        raise CommandError("\n".join(f"{path}: {problem}" for problem in problems))
    return fields


def remarks_on(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is allowed, but perhaps not intended."""
    middleware = fields["custom_middleware"]
    if middleware["driver"].lower() == "python":
        yield 'the driver is "python": the gateway runs it in its embedded Python; see `tykpy bundle convert`'
    if not any(middleware.get(key) for key in HOOK_TYPES):
        yield f"no hook is listed ({', '.join(HOOK_TYPES)}): the gateway calls nothing but event handlers"


def seal(fields: Mapping[str, Any], contents: Mapping[str, bytes], key: PrivateKey | None) -> dict[str, Any]:
    """Return the manifest for these files: listed, with their checksum, and signed if there is a key.

    Without a key, an earlier signature stays if the content is still the same.
    """
    whole = b"".join(contents.values())
    checksum = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    sealed = {**fields, "file_list": list(contents), "checksum": checksum}
    if key is not None:
        sealed["signature"] = key.sign(hashlib.sha256(whole).digest())
    elif fields.get("checksum") != checksum:
        sealed.pop("signature", None)
    return sealed


def as_bytes(fields: Mapping[str, Any]) -> bytes:
    """Serialize a manifest: the same bytes for the same fields."""
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def _problems(fields: Mapping[str, Any]) -> Iterator[str]:
    middleware = fields.get("custom_middleware")
    if not middleware:
        yield 'custom_middleware is missing: {"driver": "grpc", "pre": [{"name": "MyHook"}]} would be one'
        return
    if not middleware.get("driver"):
        yield 'custom_middleware.driver is missing; write "grpc"'
    if middleware.get("auth_check") and not middleware["auth_check"].get("name"):
        yield "custom_middleware.auth_check.name is missing"
    extractor = middleware.get("id_extractor") or {}
    if not isinstance(extractor, dict):
        yield "custom_middleware.id_extractor is not an object"
        return
    for name in _EXTRACTOR_FIELDS:
        if extractor and not extractor.get(name):
            yield f"custom_middleware.id_extractor.{name} is missing"
    if (extractor.get("extract_from"), extractor.get("extract_with")) == ("body", "value"):
        alone = "the gateway reads no value from a body, and takes all clients for one"
        yield f'custom_middleware.id_extractor: {alone}; write "extract_with": "regex", or "xpath"'


def write_zip(output: Path, manifest: bytes, contents: Mapping[str, bytes], *, compress: bool = False) -> None:
    """Write a ZIP in place of `output`, by one rename.

    Entries are stored uncompressed unless `compress`: compressed bytes depend on the version of zlib.
    Raises CommandError if workers would refuse the ZIP.
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
    """Write the files into a new folder."""
    for name, content in {**contents, MANIFEST_NAME: manifest}.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _entries(manifest: bytes, contents: Mapping[str, bytes], method: int) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    """Yield folders, then files: the gateway makes a folder only when it meets its entry."""
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
    """Give a temporary file next to the output; it is removed in any case."""
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{output.name}-", dir=output.parent)
    os.fchmod(descriptor, 0o644)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
