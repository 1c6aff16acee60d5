"""A bundle as its text: the files, their syntax trees, and the functions that are hooks."""

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from tyk import decorators
from tykpy.bundles.files.manifest import ListedHook, Manifest
from tykpy.commands.lint.compiled import COMPILED, unloadable
from tykpy.commands.lint.findings import Finding, LintReport

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_DECORATORS: Final = frozenset({*decorators.__all__, "Response"})
_ANY_TYPE: Final = "Hook"
_UNREAD: Final = "__pycache__"
_VENDORS: Final = frozenset({"_vendor", "site-packages", "third_party", "vendor", "vendored"})
"""Folders with other people's packages."""


@dataclass(frozen=True, slots=True)
class SourceHook:
    """A function that the gateway may call: it is decorated, or the manifest has its name."""

    function: Function
    decorator: str
    """"Pre" ... "Event", "Hook"; empty: it has none."""
    listed: tuple[ListedHook, ...]
    options: frozenset[str] = frozenset()
    """Names of the options that its decorator is given."""

    @property
    def types(self) -> frozenset[str]:
        """The hook types that it runs as; empty: nothing tells."""
        if self.decorator not in ("", _ANY_TYPE):
            return frozenset({self.decorator})
        return frozenset(entry.hook_type for entry in self.listed)

    @property
    def parameters(self) -> list[str]:
        """The names of its positional arguments."""
        arguments = self.function.args
        return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]


@dataclass(slots=True)
class SourceFile:
    """One Python file that could be parsed."""

    name: str
    """As findings show it."""
    text: str
    tree: ast.Module
    hooks: list[SourceHook] = field(default_factory=list)
    is_vendored: bool = False
    """Somebody else's code that the bundle carries along: only looked at for whether it can be imported."""

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions at the top of the file, by name; of several the last counts."""
        return {node.name: node for node in top_statements(self.tree) if isinstance(node, Function)}


@dataclass(slots=True)
class Sources:
    """All Python files of a bundle, and what kept one from being read."""

    manifest: Manifest
    files: list[SourceFile] = field(default_factory=list)
    unreadable: list[Finding] = field(default_factory=list)
    unloadable: list[Finding] = field(default_factory=list)
    """Compiled files that no supported Python can load."""
    compiled: int = 0
    """Compiled files, whose code cannot be read here."""

    def report(self, findings: list[Finding]) -> LintReport:
        """Return these findings with what was looked at, and what was not."""
        unchecked = []
        if self.unreadable:
            unchecked.append(
                _counted(len(self.unreadable), "file that cannot be parsed", "files that cannot be parsed")
            )
        if self.compiled:
            unchecked.append(_counted(self.compiled, "compiled file", "compiled files"))
        vendored = sum(file.is_vendored for file in self.files)
        if vendored:
            unchecked.append(_counted(vendored, "vendored file", "vendored files") + " beyond whether they load")
        unchecked.append("modules from outside the bundle")
        unchecked.append("names that are resolved at run time (getattr, exec, importlib)")
        return LintReport(findings, len(self.files) - vendored, tuple(unchecked))


def read_sources(root: Path, manifest: Manifest, shown: str) -> Sources:
    """Read the Python files below `root`, which findings call `shown`; a single `.py` file is its own root."""
    sources = Sources(manifest)
    for path in [root] if root.is_file() else sorted(_python_files(root)):
        name = shown if root.is_file() else f"{shown}/{path.relative_to(root).as_posix()}"
        try:
            text = path.read_bytes()
            tree = _parsed(text, name)
            vendored = not root.is_file() and _is_vendored(path.relative_to(root))
            sources.files.append(SourceFile(name, text.decode("utf-8", "replace"), tree, is_vendored=vendored))
        except SyntaxError as error:
            sources.unreadable.append(
                Finding(name, error.lineno or 0, error.offset or 1, "syntax", f"cannot be imported: {error.msg}")
            )
        except (OSError, ValueError, RecursionError) as error:
            sources.unreadable.append(Finding(name, 0, 0, "syntax", f"cannot be read: {error}"))
    for file in sources.files:
        if not file.is_vendored:
            file.hooks = list(_hooks(file, manifest.hooks))
    for path in [] if root.is_file() else sorted(_compiled_files(root)):
        sources.compiled += 1
        sources.unloadable += unloadable(path, f"{shown}/{path.relative_to(root).as_posix()}")
    return sources


def _is_vendored(path: Path) -> bool:
    return not _VENDORS.isdisjoint(path.parent.parts)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _parsed(text: bytes, name: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about the author's style
        return ast.parse(text, filename=name)


def top_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those inside `if`, `try` and `with` included."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        statement = waiting.pop()
        yield statement
        waiting.extend(reversed(list(_inner(statement))))


def _inner(statement: ast.stmt) -> Iterator[ast.stmt]:
    if isinstance(statement, ast.If | ast.With | ast.Try | ast.TryStar | ast.For | ast.While):
        for name in ("body", "orelse", "finalbody"):
            yield from getattr(statement, name, [])
        for handler in getattr(statement, "handlers", []):
            yield from handler.body


def _python_files(root: Path) -> Iterator[Path]:
    return (path for path in _visible_files(root) if path.suffix == ".py")


def _compiled_files(root: Path) -> Iterator[Path]:
    return (path for path in _visible_files(root) if path.suffix in COMPILED)


def _visible_files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and _UNREAD not in parts and not any(part.startswith(".") for part in parts):
            yield path


def _hooks(file: SourceFile, listed: Iterable[ListedHook]) -> Iterator[SourceHook]:
    aliases = _aliases(file.tree)
    for function in file.functions.values():
        entries = tuple(entry for entry in listed if entry.name == function.name)
        found = next((node for node in function.decorator_list if _decorator(node, aliases)), None)
        decorator = "" if found is None else _decorator(found, aliases)
        if decorator or entries:
            yield SourceHook(function, decorator, entries, _options(found))


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Return what the file calls the decorators: `import ... as` included."""
    names = {name: name for name in _DECORATORS}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "tyk.decorators":
            names.update({alias.asname: alias.name for alias in node.names if alias.asname and alias.name in names})
    return names


def _decorator(node: ast.expr, aliases: Mapping[str, str]) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr if node.attr in _DECORATORS else ""
    return aliases.get(node.id, "") if isinstance(node, ast.Name) else ""


def _options(decorator: ast.expr | None) -> frozenset[str]:
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else ()
    return frozenset(keyword.arg for keyword in keywords if keyword.arg is not None)
