"""Look for modules in folders and in `sys.path`, without importing them."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path, PurePosixPath
from typing import Any


def first_spec(finders: Iterable[Any], name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Ask finders for a module, as imports do."""
    return next(filter(None, (finder.find_spec(name, path) for finder in finders)), None)


def is_installed(name: str, ours: object) -> bool:
    """Return whether there is a module of that name outside of bundles; `ours` is the finder of the bundles."""
    return _is_on_path(name, ours, tuple(sys.path))


@lru_cache(maxsize=1024)
def _is_on_path(name: str, ours: object, _: tuple[str, ...]) -> bool:
    path: Sequence[str] | None = None
    for end in (match.start() for match in re.finditer(r"\.|$", name)):
        spec = first_spec((finder for finder in sys.meta_path if finder is not ours), name[:end], path)
        if spec is None:
            return False
        path = spec.submodule_search_locations or ()
    return True


def has_python(folder: str, top: str) -> bool:
    """Return whether there is Python code below `top` in a folder."""
    return next(Path(folder, top).rglob("*.py"), None) is not None


def has_compiled_parts(folder: str, top: str) -> bool:
    """Return whether the module `top` of a folder is compiled, or is a package with compiled modules."""
    package = Path(folder, top)
    if (package / "__init__.py").is_file():
        return any(file.name.endswith(tuple(EXTENSION_SUFFIXES)) for file in package.rglob("*"))
    return not package.is_dir() and any(Path(folder, top + suffix).is_file() for suffix in EXTENSION_SUFFIXES)


def nested_modules(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield `(util, lib.util)` for `lib/util.py`; in reverse, so that the first of a name wins in a dict."""
    for file in reversed(list(files)):
        path = PurePosixPath(file)
        if path.suffix != ".py" or len(path.parts) < 2:
            continue
        parts = path.parts[:-1] if path.stem == "__init__" else (*path.parts[:-1], path.stem)
        if len(parts) > 1 and all(part.isidentifier() for part in parts):
            yield parts[-1], ".".join(parts)
