"""The sources of a bundle: its files, their syntax trees, and the functions that are hooks."""

import ast
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import decode_source
from pathlib import Path
from typing import Final

from tyk import decorators
from tykpy.bundles.files.manifest import MANIFEST_NAME, ListedHook, Manifest
from tykpy.commands.bundle.reading import files_below
from tykpy.commands.lint.compiled import COMPILED, unloadable
from tykpy.commands.lint.findings import Finding, LintReport
from tykpy.commands.lint.syntax import Function, last_name, positional, top_statements
from tykpy.ipc.regular_file import read_regular
from tykpy.telemetry.records import counted

_DECORATORS: Final = frozenset({*decorators.__all__, "Response"})
_ANY_TYPE: Final = "Hook"
_EVENT: Final = "Event"
_VENDORS: Final = frozenset({"_vendor", "site-packages", "third_party", "vendor", "vendored"})
"""Names of folders with third-party packages."""


@dataclass(frozen=True, slots=True)
class SourceHook:
    """A function that the gateway may call: it is decorated, or named in the manifest."""

    function: Function
    decorator: str
    """"Pre" ... "Event", "Hook"; empty without one."""
    listed: tuple[ListedHook, ...]
    options: frozenset[str] = frozenset()
    """Names of the options given to its decorator."""
    is_bound: bool = False
    """Whether it is a method whose first argument is not the caller's."""
    is_unlisted: bool = False
    """Whether the manifest lists hooks, and not this one."""

    @property
    def types(self) -> frozenset[str]:
        """The hook types that it runs as; empty if unknown."""
        if self.decorator not in ("", _ANY_TYPE):
            return frozenset({self.decorator})
        return frozenset(entry.hook_type for entry in self.listed)

    @property
    def parameters(self) -> list[str]:
        """The names of its positional arguments."""
        return [argument.arg for argument in positional(self.function)]


@dataclass(slots=True)
class SourceFile:
    """A Python file that could be parsed."""

    name: str
    """The name in findings."""
    text: str
    tree: ast.Module
    hooks: list[SourceHook] = field(default_factory=list)
    """Those at module level, which workers find by their names."""
    inner_hooks: list[SourceHook] = field(default_factory=list)
    """Decorated methods, and decorated functions inside functions, which a name at module level may stand for."""
    is_vendored: bool = False
    """Whether it is third-party code inside the bundle: only checked for whether it can be imported."""

    @property
    def functions(self) -> Mapping[str, Function]:
        """The top-level functions by name; the last of a name counts."""
        return {node.name: node for node in top_statements(self.tree) if isinstance(node, Function)}


@dataclass(slots=True)
class Sources:
    """All Python files of a bundle, and why others could not be read."""

    manifest: Manifest
    files: list[SourceFile] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)
    """Files that the manifest lists and that are not there."""
    unreadable: list[Finding] = field(default_factory=list)
    unloadable: list[Finding] = field(default_factory=list)
    """Compiled files that no supported Python can load."""
    compiled: int = 0
    """Number of compiled files, whose code cannot be read."""

    def report(self, findings: list[Finding]) -> LintReport:
        """Return these findings, with what was checked and what was not."""
        unchecked = []
        if self.unreadable:
            unchecked.append(counted(len(self.unreadable), "file that cannot be parsed", "files that cannot be parsed"))
        if self.compiled:
            unchecked.append(counted(self.compiled, "compiled file"))
        vendored = sum(file.is_vendored for file in self.files)
        if vendored:
            unchecked.append(counted(vendored, "vendored file") + " beyond whether they load")
        unchecked.append("modules from outside the bundle")
        unchecked.append("names that are resolved at run time (getattr, exec, importlib)")
        return LintReport(findings, len(self.files) - vendored, tuple(unchecked))


def read_sources(root: Path, manifest: Manifest, shown: str) -> Sources:
    """Read the Python files below `root`, or `root` itself; `shown` is its name in findings."""
    sources = Sources(manifest)
    if root.is_dir():
        sources.missing = list(_missing_files(root, manifest, shown))
    paths = [root] if root.is_file() else list(files_below(root))
    for path in [path for path in paths if path.suffix == ".py" or path == root]:
        name = shown if root.is_file() else f"{shown}/{path.relative_to(root).as_posix()}"
        try:
            text = read_regular(path)
            tree = _parsed(text, name)
            vendored = not _VENDORS.isdisjoint(path.relative_to(root).parent.parts)
            sources.files.append(SourceFile(name, decode_source(text), tree, is_vendored=vendored))
        except SyntaxError as error:
            sources.unreadable.append(
                Finding(name, error.lineno or 0, error.offset or 1, "syntax", f"cannot be imported: {error.msg}")
            )
        except MemoryError:  # the parser's own limit
            sources.unreadable.append(Finding(name, 0, 0, "syntax", "cannot be imported: it is nested too deeply"))
        except (OSError, ValueError, RecursionError) as error:
            sources.unreadable.append(Finding(name, 0, 0, "syntax", f"cannot be read: {error}"))
    for file in sources.files:
        if not file.is_vendored:
            aliases = _aliases(file.tree)
            file.hooks = list(_hooks(file, manifest, aliases))
            file.inner_hooks = list(_inner_hooks(file.tree, aliases))
    for path in [path for path in paths if path.suffix in COMPILED and path != root]:
        sources.compiled += 1
        sources.unloadable += unloadable(path, f"{shown}/{path.relative_to(root).as_posix()}")
    return sources


def _parsed(text: bytes, name: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's remarks on style
        return ast.parse(text, filename=name)


def _missing_files(root: Path, manifest: Manifest, shown: str) -> Iterator[Finding]:
    for name in manifest.file_list:
        if not (root / name).is_file():
            yield Finding(f"{shown}/{MANIFEST_NAME}", 0, 0, "file-missing", f"{name} is in file_list, and is not there")


def _hooks(file: SourceFile, manifest: Manifest, aliases: Mapping[str, str]) -> Iterator[SourceHook]:
    called = {_EVENT, *manifest.chained} if manifest.hooks or manifest.chained else _DECORATORS
    for function in file.functions.values():
        entries = tuple(entry for entry in manifest.hooks if entry.name == function.name)
        found = next((node for node in function.decorator_list if _decorator(node, aliases)), None)
        decorator = "" if found is None else _decorator(found, aliases)
        if decorator or entries:
            is_unlisted = not entries and decorator not in called
            yield SourceHook(function, decorator, entries, _options(found), is_unlisted=is_unlisted)


def _inner_hooks(tree: ast.Module, aliases: Mapping[str, str]) -> Iterator[SourceHook]:
    nodes = list(ast.walk(tree))
    outer = set(map(id, top_statements(tree)))
    methods = {id(part) for node in nodes if isinstance(node, ast.ClassDef) for part in top_statements(node)}
    for node in nodes:
        if isinstance(node, Function) and id(node) not in outer:
            decorators = {_decorator(one, aliases): one for one in node.decorator_list}
            is_bound = id(node) in methods and all(last_name(one) != "staticmethod" for one in node.decorator_list)
            yield from (SourceHook(node, name, (), _options(one), is_bound) for name, one in decorators.items() if name)


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Return the decorators by the names that the file has for them (`import ... as`)."""
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
