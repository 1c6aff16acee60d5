"""`tykpy bundle build`: a folder with a manifest becomes a ZIP that a gateway downloads."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tykpy.bundles.errors import KeyFileError
from tykpy.bundles.files.manifest import MANIFEST_NAME, parse_manifest
from tykpy.bundles.files.signature import PrivateKey
from tykpy.bundles.files.verification import INDEX_NAME, file_index
from tykpy.commands.bundle.chain import chain_hooks
from tykpy.commands.bundle.reading import manifest_of, packable
from tykpy.commands.bundle.writing import as_bytes, read_fields, remarks_on, seal, write_zip
from tykpy.commands.errors import CommandError
from tykpy.commands.lint.sources import read_sources
from tykpy.ipc.regular_file import read_regular

_FOR_DEVELOPERS: Final = re.compile(
    r"tests/.*|(?:.*/)?(?:test_[^/]*\.py|[^/]*_test\.py|conftest\.py)"
    r"|(?:README|LICENSE|CHANGELOG)[^/]*|pyproject\.toml|setup\.cfg|requirements[^/]*\.txt|[^/]*\.(?:lock|tykpy|zip)"
)
"""Files beside the code that no hook needs, and what tykpy writes there: none of them is missed."""


@dataclass(frozen=True, slots=True)
class Built:
    """What was written, and remarks for the author."""

    output: Path
    files: tuple[str, ...]
    checksum: str
    signed: bool
    remarks: tuple[str, ...]


def build(
    folder: Path, output: Path, key_file: Path | None = None, *, compress: bool = False, chain: bool = False
) -> Built:
    """Check, seal and pack the bundle in `folder`; with `chain`, its hooks of one type are called together.

    Raises CommandError with everything that is missing or wrong.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder")
    fields = read_fields(folder)
    remarks = [*remarks_on(fields)]
    if chain:
        chained = chain_hooks(fields, read_sources(folder, manifest_of(folder, folder), str(folder)), str(folder))
        fields = chained.fields
        remarks += chained.changes
    there = [name for name in packable(folder) if _place(folder / name) != _place(output)]
    try:
        key = PrivateKey.read(key_file) if key_file is not None else None
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    contents = _with_index(read_files(folder, _file_list(folder, fields.get("file_list") or there)), signs=bool(key))
    sealed = seal(fields, contents, key)
    write_zip(output, as_bytes(sealed), contents, compress=compress)
    remarks += _not_packed(there, contents)
    if "signature" in fields and "signature" not in sealed:
        remarks.append("the manifest's signature was for other files and is left out; sign with --key")
    return Built(output, tuple(contents), sealed["checksum"], "signature" in sealed, tuple(remarks))


def _place(path: Path) -> Path:
    """Return where a path leads; `Path.resolve` raises where links lead to each other."""
    return Path(os.path.realpath(path))


def read_files(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the files' contents, in order. Raises CommandError naming all that cannot be packed."""
    contents: dict[str, bytes] = {}
    problems: list[str] = []
    for name in names:
        try:
            if not _place(folder / name).is_relative_to(_place(folder)):
                problems.append(f"{name} is a link that leaves the folder")
                continue
            contents[name] = read_regular(folder / name)
        except OSError as error:
            problems.append(f"{name} is in file_list and cannot be read: {error.strerror}")
    if problems:
        raise CommandError("\n".join(f"{folder}: {problem}" for problem in problems))
    return contents


def _file_list(folder: Path, listed: list[str]) -> tuple[str, ...]:
    """Return the names of the files to pack, normalized. Raises CommandError."""
    if not listed:
        raise CommandError(f"{folder}: there is no file to pack")
    names = parse_manifest(as_bytes({"file_list": listed})).file_list
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CommandError(f"{folder / MANIFEST_NAME}: file_list has these twice: {', '.join(twice)}")
    if MANIFEST_NAME in names:
        raise CommandError(f"{folder / MANIFEST_NAME}: file_list has the manifest, which holds the files' checksum")
    return names


def _with_index(contents: dict[str, bytes], *, signs: bool) -> dict[str, bytes]:
    """Add a file index as the last file if the bundle is signed; otherwise keep one that is still right."""
    before = contents.pop(INDEX_NAME, None)
    index = file_index({name: len(content) for name, content in contents.items()})
    return {**contents, INDEX_NAME: index} if signs or index == before else contents


def _not_packed(there: Iterable[str], contents: Iterable[str]) -> Iterator[str]:
    """Yield the files that hooks may miss."""
    for name in sorted(set(there) - set(contents)):
        if not _FOR_DEVELOPERS.fullmatch(name):
            yield f"{name} is not in file_list, and not packed"
