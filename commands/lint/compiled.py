"""Find compiled files of a bundle that no supported Python can load, by their names.

Names of extension modules are those of PEP 3149: `NAME.cpython-312-x86_64-linux-gnu.so`, `NAME.abi3.so`, `NAME.so`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tykpy.commands.lint.findings import Finding

SUPPORTED: Final = ("3.11", "3.12", "3.13")
COMPILED: Final = frozenset({".so", ".pyd", ".dylib", ".dll", ".pyc", ".pyo"})
_CPYTHON: Final = re.compile(r"cpython-(\d)(\d+)([a-z]*)(?:-(.+))?")
_OTHER_INTERPRETER: Final = re.compile(r"(pypy|graalpy|cp|pp)\d")


def unloadable(path: Path, shown: str) -> Iterator[Finding]:
    """Yield why no supported Python can load a compiled file; nothing if one may."""
    reason = _reason(path)
    if reason:
        message = f"{reason}; no Python that tykpy runs on ({SUPPORTED[0]} to {SUPPORTED[-1]}) can load it"
        yield Finding(shown, 0, 0, "cannot-load", message)


def _reason(path: Path) -> str:
    if path.suffix in (".pyd", ".dll"):
        return "compiled for Windows"
    if path.suffix == ".dylib":
        return "compiled for macOS"
    if path.suffix in (".pyc", ".pyo"):
        return "" if path.with_suffix(".py").exists() else "compiled bytecode without its source"
    _, _, tag = path.name.removesuffix(path.suffix).partition(".")
    return _tag_reason(tag)


def _tag_reason(tag: str) -> str:
    if _OTHER_INTERPRETER.match(tag):
        return f"compiled for another interpreter than CPython ({tag})"
    found = _CPYTHON.fullmatch(tag)
    if found is None:
        return ""
    major, minor, flags, platform = found.groups()
    if f"{major}.{minor}" not in SUPPORTED:
        return f"compiled for CPython {major}.{minor} (cpython-{major}{minor})"
    if flags:
        return f"compiled for another build of CPython {major}.{minor} ({tag})"
    if platform and "linux" not in platform:
        return f"compiled for another system ({platform})"
    return ""
