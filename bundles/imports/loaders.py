"""Load and find single modules of a bundle; `importer.py` decides which module a name stands for."""

import importlib
import sys
from importlib.abc import Loader
from importlib.machinery import ExtensionFileLoader, FileFinder, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, Protocol
from zipimport import zipimporter

from tykpy.bundles.imports.lookup import first_spec

_IMPORTLIB: Final = PathFinder.find_spec.__func__.__code__.co_filename  # type: ignore[attr-defined]


class Owner(Protocol):
    """The bundle that a module belongs to."""

    builtins: dict[str, Any]
    """The builtins that its modules run with: its own `__import__` is among them."""

    def check(self, path: str, content: bytes) -> None:
        """Raise ImportError if a file of a signed bundle is not as it was signed."""

    def started(self, fullname: str) -> None:
        """Note a module that is about to run."""

    def public(self, fullname: str) -> str:
        """Return the name by which the bundle imports a module."""


class _OwnBuiltins:
    """Runs modules with their bundle's builtins."""

    space: Owner

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self.space.builtins
        self.space.started(module.__name__)
        super().exec_module(module)  # type: ignore[misc]


class BundleLoader(_OwnBuiltins, SourceFileLoader):  # type: ignore[misc]  # typeshed's bases differ
    """Loads one source file of a bundle, with the bundle's own `__import__`, and writes no bytecode next to it."""

    def __init__(self, space: Owner, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.space = space

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the source; a `__pycache__` in a shared folder is neither trusted nor written."""
        path = self.get_filename(fullname)
        source = self.get_data(path)
        self.space.check(path, source)
        code: CodeType = self.source_to_code(source, path)
        return code


class FolderLoader(BundleLoader):
    """Loads a folder that has no `__init__.py` as an empty package."""

    def get_code(self, fullname: str) -> CodeType:
        return compile("", self.get_filename(fullname), "exec")

    def get_source(self, fullname: str) -> str:
        return ""


class CompiledLoader(ExtensionFileLoader):
    """Loads a compiled module of a bundle, and explains the error of one that can be loaded only once per process."""

    def __init__(self, space: Owner, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._space = space

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Load the file. Raises ImportError if it is not as it was signed."""
        self._space.check(self.path, self.get_data(self.path))
        try:
            return super().create_module(spec)
        except (ImportError, SystemError) as error:
            raise self._explained(error) from error

    def exec_module(self, module: ModuleType) -> None:
        """Initialize the module."""
        self._space.started(module.__name__)
        try:
            super().exec_module(module)
        except (ImportError, SystemError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> ImportError:
        name = self._space.public(self.name)
        return ImportError(
            f"{name} is compiled and cannot be loaded for this bundle alone: {error}; "
            f"install {name.partition('.')[0]} where tykpy is installed, for all bundles",
            name=name,
            path=self.path,
        )


class ZipLoader(_OwnBuiltins, zipimporter):
    """Loads the modules of a ZIP inside a bundle."""

    def __init__(self, space: Owner, path: str) -> None:
        super().__init__(path)
        self.space = space

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source. Raises ImportError if the ZIP is not as it was signed."""
        self.space.check(self.archive, Path(self.archive).read_bytes())
        return super().get_code(fullname)


class AliasLoader(Loader):
    """Gives a module a second name: importing that name gives the module itself."""

    def __init__(self, fullname: str, loader: Any = None) -> None:
        self._fullname = fullname
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Put the module in place: import takes what is in sys.modules when the loader is done."""
        sys.modules[module.__name__] = importlib.import_module(self._fullname)

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the module's own loader, with methods bound to the module's own name."""
        attribute = getattr(self._loader, name)
        if name in ("get_code", "get_source", "get_filename", "is_package"):
            return lambda *_: attribute(self._fullname)
        return attribute


_IMPORTING: Final = frozenset(
    function.__code__.co_filename
    for function in (importlib._bootstrap._find_spec, first_spec)  # type: ignore[attr-defined]
)


class _HiddenFromImports:
    """Finds modules for explicit look-ups, but not for imports: these modules would be everybody's."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        if sys._getframe(1).f_code.co_filename == _IMPORTLIB and sys._getframe(3).f_code.co_filename in _IMPORTING:
            return None  # frames 1 and 2 are those of PathFinder
        found: ModuleSpec | None = super().find_spec(fullname, target)  # type: ignore[misc]
        return found


class OwnFolder(_HiddenFromImports, FileFinder):
    """A bundle's folder in `sys.path`."""

    def __init__(self, path: str) -> None:
        super().__init__(path, *importlib._bootstrap_external._get_supported_file_loaders())  # type: ignore[attr-defined]


class OwnZip(_HiddenFromImports, zipimporter):
    """A bundle's ZIP in `sys.path`."""


def is_namespace(spec: ModuleSpec) -> bool:
    """Return whether a package declares that it has parts elsewhere, as namespace packages did before PEP 420."""
    if not spec.submodule_search_locations or not isinstance(spec.loader, BundleLoader):
        return False
    source = spec.loader.get_data(spec.loader.path)
    return b"extend_path" in source or b"declare_namespace" in source


def folder_spec(name: str, loader: FolderLoader, folders: list[str]) -> ModuleSpec:
    spec = ModuleSpec(name, loader, is_package=True)
    spec.submodule_search_locations = folders
    return spec
