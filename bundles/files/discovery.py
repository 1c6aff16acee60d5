"""Find what may be a bundle in a folder, the hashes by which a gateway asks for it, and the order of its parts.

| in the folder | is asked for by |
|---|---|
| folder with a name of 32 hex digits (a gateway's own) | that name |
| folder `foo` | MD5 of `foo` and of `foo.zip` |
| `foo.zip` | MD5 of `foo.zip` |
| `foo.py` with hooks | MD5 of `foo.py`, of `foo` and of `foo.zip` |
"""

import ast
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Final

from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.ipc.description import MAX_NAME, MAX_PATH
from tykpy.ipc.text import bounded

EMPTY_NAME_HASH: Final = hashlib.md5(b"", usedforsecurity=False).hexdigest()
"""The hash that a gateway sends for an API without a bundle."""
_HASH: Final = re.compile(r"[0-9a-f]{32}")
_MAX_ORDERED_PARTS: Final = 6
"""Most parts whose order is worked out from the hash of their names: 720 tries; gateways have two or three."""
_IMPORTS_DECORATORS: Final = re.compile(
    rb"\btyk\s*\.\s*decorators\b"
    rb"|^[ \t]*from[ \t]+tyk[ \t]+import\b"
    rb"|^[ \t]*import\b.*\btyk\b(?!\s*\.)"
    rb"|^[ \t]*from\b.*\bimport[ \t]*\*",
    re.MULTILINE,
)
"""All ways to import the decorators, a star import from any module among them."""
_IS_TEST: Final = re.compile(r"conftest|test_.*|.*_test")
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_INERT: Final = (*_DEFINITIONS, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder, ZIP or file that may be a bundle."""

    path: Path
    name: str
    hashes: tuple[str, ...]
    """The hashes that it answers to. The first is that of its own name; the others yield to bundles of those names."""
    place: Path
    """Where its files are: differs from `path` for a saved version."""

    @property
    def key(self) -> str:
        """The path, as descriptions have it."""
        return key_of(self.path)

    @property
    def looks_whole(self) -> bool:
        """Whether to load it before anybody asks: a folder without a manifest and without Python is something else."""
        try:
            if not self.path.is_dir() or (self.path / MANIFEST_NAME).is_file():
                return True
            return bool(part_folders(self.path)[0]) or next(self.path.glob("*.py"), None) is not None
        except OSError:
            return True  # loading it reports what is wrong


def key_of(path: Path) -> str:
    """Return a bundle's path as text that any message can carry."""
    return bounded(str(path), MAX_PATH)


def name_hash(name: str) -> str:
    """Return the hash by which a gateway names a bundle."""
    return hashlib.md5(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def candidates(source: Path) -> Iterator[Candidate]:
    """Yield what may be a bundle in the folder `source`, ordered by name; or `source` itself if it is a bundle.

    Raises OSError if the folder cannot be read.
    """
    if source.is_file() or (source / MANIFEST_NAME).is_file():
        yield from _candidate(source)
        return
    for path in sorted(source.iterdir()):
        yield from _candidate(path)


def candidate_at(path: Path) -> Candidate | None:
    """Return what may be a bundle at this path."""
    return next(_candidate(path), None)


def part_folders(folder: Path) -> tuple[list[Path], bool]:
    """Return the parts of a folder that stands for several bundles, and whether they are complete and in order.

    The folder is named after the MD5 of its parts' names, joined by commas, which tells their order. In the name of a
    part the gateway writes "__" for "/". Where no order fits (a part has not arrived yet, or has another suffix), they
    are sorted by name. No manifest in any of them: no parts.
    """
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_ignored(path.name))
    if not any((path / MANIFEST_NAME).is_file() for path in found):
        return [], False
    if len(found) <= _MAX_ORDERED_PARTS:
        for order in permutations(found):
            if _is_named(folder.name, order):
                return list(order), True
    return found, False


def is_other_file(file: Path, source: bytes) -> bool:
    """Return whether the source of a `.py` file beside bundles is no bundle: a test, a `conftest.py`, other functions.

    Such a file is not imported. Where the source does not tell, the file is imported, and is a bundle if it has hooks
    or cannot be imported. Raises what `compile` raises if it is not Python.
    """
    if _IMPORTS_DECORATORS.search(source):
        return False
    body = ast.parse(source, str(file)).body
    return _IS_TEST.fullmatch(file.stem) is not None or _only_defines(body)


def _candidate(path: Path) -> Iterator[Candidate]:
    name = path.name
    if _is_ignored(name):
        return
    hashes: tuple[str, ...]
    if os.path.isdir(path):
        is_hash = _HASH.fullmatch(name.lower()) is not None
        hashes = (name.lower(),) if is_hash else (name_hash(name), name_hash(f"{name}.zip"))
    elif path.suffix == ".zip":
        hashes = (name_hash(name),)
    elif path.suffix == ".py":
        hashes = (name_hash(name), name_hash(path.stem), name_hash(f"{path.stem}.zip"))
    else:
        return
    yield Candidate(path, bounded(name, MAX_NAME), hashes, path)


def _is_named(name: str, order: Iterable[Path]) -> bool:
    spellings = [{path.name, path.name.replace("__", "/")} for path in order]
    for names, ending, comma in product(product(*spellings), (".zip", ""), (",", ", ")):
        joined = comma.join(part + ending for part in names)
        if name in (joined, name_hash(joined)):
            return True
    return False


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _only_defines(body: list[ast.stmt]) -> bool:
    """Return whether a module defines functions or classes, and does nothing else at import."""
    inert = all(isinstance(node, _INERT) or _is_docstring(node) for node in body)
    return inert and any(isinstance(node, _DEFINITIONS) for node in body)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
