"""Gives every bundle imports of its own, so that two bundles, and tykpy, may have modules of the same names.

A bundle's modules live in `sys.modules` below a private package (`tykpy_<name>_<hash>`). Their globals carry a copy
of `builtins` whose `__import__` looks into the bundle's files first: the interpreter takes `__import__` from there for
every import statement, also inside functions, in threads and in coroutines. Nothing is patched for others.
"""

import builtins
import hashlib
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import module_from_spec
from pathlib import Path, PurePosixPath
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from workers.views import importlib_views

_HIDDEN: Final = frozenset({"broker", "cli", "commands", "ipc", "redisclient", "workers"})
"""Our own names: a bundle that has no such module must not get ours."""

_PROTO_NAME: Final = re.compile(r"coprocess_\w+_pb2")
"""The gateway's messages. Whatever copies a bundle carries, it gets ours: the same classes as its arguments."""

_import: Final = builtins.__import__


class ImportSpace:
    """The modules of one bundle, or of one of several bundles that share a hash."""

    def __init__(
        self,
        prefix: str,
        bundle: str,
        root: Path,
        files: Sequence[str],
        single: bool = False,
        sealed: Mapping[str, bytes] | None = None,
    ) -> None:
        """Own what lies below `root`; of a `single` file's folder only that file.

        `sealed`: the SHA-256 of each file, by name; what differs, or is not there, is not imported, however late.
        """
        self.prefix = prefix
        self.bundle = bundle
        self.root = root
        self.builtins: dict[str, Any] = dict(vars(builtins), __import__=self.import_name)
        self._only = frozenset(PurePosixPath(name).stem for name in files) if single else None
        self._sealed = sealed
        self._nested = dict(_nested_modules(files))
        self._known: dict[str, str | None] = {}
        self._views = importlib_views(self.target)

    def open(self) -> None:
        """Make the bundle's modules importable. Raises ValueError where the prefix is in use."""
        if self.prefix in _finder.spaces:
            raise ValueError(f"the import prefix {self.prefix} is in use")
        _finder.spaces[self.prefix] = self
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        loader = _FolderLoader(self, self.prefix, str(self.root / "__init__.py"))
        sys.modules[self.prefix] = module_from_spec(_folder_spec(self.prefix, loader, [str(self.root)]))

    def close(self) -> None:
        """Forget the bundle's modules; what still runs keeps its globals, and imports nothing new."""
        _finder.spaces.pop(self.prefix, None)
        for name in [name for name in sys.modules if self._is_private(name)]:
            del sys.modules[name]

    def load(self, file: str) -> ModuleType:
        """Import one file of the bundle by its path below the root; raises whatever its code raises."""
        path = PurePosixPath(file).with_suffix("")
        parts = path.parts[:-1] if path.name == "__init__" else path.parts
        if any("." in part for part in parts):
            raise ImportError(f"{file} cannot be imported: a module's name has no dots", name=file)
        return importlib.import_module(".".join((self.prefix, *parts)))

    def modules(self) -> list[ModuleType]:
        """Return the bundle's modules that are loaded, without the folders that only lead to them."""
        found = [module for name, module in sys.modules.copy().items() if self._is_private(name)]
        return [module for module in found if module.__name__ != self.prefix]

    def target(self, name: str, importer: str = "") -> tuple[str, str] | None:
        """Say which module stands behind `name` in this bundle: `(its top-level module, itself)`, by full names.

        None: the name is an ordinary one; so it is where the file `redis.py` imports `redis`.
        Raises ModuleNotFoundError for the names of tykpy's own insides.
        """
        top, dot, rest = name.partition(".")
        head = self._head(top)
        if head is None or head == importer:
            return None
        return head, head + dot + rest

    def import_name(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 (builtins.__import__ has these names)
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Do what `builtins.__import__` does, with the bundle's own modules first."""
        try:
            found = None if level else self.target(name, _importer(globals))
            if found is None:
                module = _import(name, globals, locals, fromlist or (), level)
                return self._view(module, name, fromlist) if name.startswith("importlib") else module
            head, full = found
            module = _import(full, globals, locals, fromlist or (), 0)
            return module if fromlist else sys.modules[head]
        except ModuleNotFoundError as error:
            if self._is_private(error.name or ""):
                raise self._public(error) from None
            raise

    def find_spec(self, fullname: str, path: Sequence[str]) -> ModuleSpec:
        """Find one of the bundle's modules below the folders `path`. Raises ModuleNotFoundError.

        None would send the import on to Python's own finder, which writes `__pycache__` into the bundle.
        """
        tail = fullname.rpartition(".")[2]
        if _PROTO_NAME.fullmatch(tail):
            return ModuleSpec(fullname, _ProtoLoader())
        for folder in path:
            spec = FileFinder(folder, *self._loaders()).find_spec(fullname)
            if spec is not None and self._allows(fullname):
                if isinstance(spec.loader, ExtensionFileLoader):
                    self.check(spec.loader.path, spec.loader.get_data(spec.loader.path))
                return self._with_loader(spec)
        raise ModuleNotFoundError(f"No module named {self._strip(fullname)!r}", name=fullname)

    def check(self, path: str, content: bytes) -> None:
        """Raise ImportError where a file of a signed bundle is not as it was signed."""
        if self._sealed is None:
            return
        name = PurePosixPath(path).relative_to(self.root).as_posix()
        if self._sealed.get(name) != hashlib.sha256(content).digest():
            state = "was changed since its signature was checked" if name in self._sealed else "is not in file_list"
            raise ImportError(f"{name} {state}: a signed bundle is imported as it was signed", name=name, path=path)

    def _head(self, top: str) -> str | None:
        if top not in self._known:
            self._known[top] = self._locate(top)
        return self._known[top]

    def _locate(self, top: str) -> str | None:
        if top == "gateway":
            return "tyk.gateway"
        if _PROTO_NAME.fullmatch(top):
            return f"tyk.proto.{top}"
        if top == "tyk" or top in sys.builtin_module_names or top in _finder.spaces:
            return None
        if self._has_top(top):
            return f"{self.prefix}.{top}"
        if top in self._nested and top not in sys.stdlib_module_names:
            return f"{self.prefix}.{self._nested[top]}"
        if top in _HIDDEN:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        return None

    def _has_top(self, top: str) -> bool:
        fullname = f"{self.prefix}.{top}"
        if not self._allows(fullname):
            return False
        spec = FileFinder(str(self.root), *self._loaders()).find_spec(fullname)
        if spec is None:
            return False
        # A folder without __init__.py gives way to real modules of that name, unless there is Python in it.
        return spec.loader is not None or (
            top not in sys.stdlib_module_names and next((self.root / top).rglob("*.py"), None) is not None
        )

    def _allows(self, fullname: str) -> bool:
        return self._only is None or fullname.split(".")[1] in self._only

    def _loaders(self) -> list[tuple[Any, list[str]]]:
        def source(fullname: str, path: str) -> BundleLoader:
            return BundleLoader(self, fullname, path)

        return [(ExtensionFileLoader, EXTENSION_SUFFIXES), (source, SOURCE_SUFFIXES)]

    def _with_loader(self, spec: ModuleSpec) -> ModuleSpec:
        """Give a folder without `__init__.py` a loader, so that `importlib.resources` works on it."""
        if spec.loader is not None or not spec.submodule_search_locations:
            return spec
        folders = list(spec.submodule_search_locations)
        return _folder_spec(spec.name, _FolderLoader(self, spec.name, f"{folders[0]}/__init__.py"), folders)

    def _view(self, module: ModuleType, name: str, fromlist: Sequence[str] | None) -> ModuleType:
        return self._views.get(name if fromlist else name.partition(".")[0], module)

    def _is_private(self, name: str) -> bool:
        return name == self.prefix or name.startswith(self.prefix + ".")

    def _public(self, error: ModuleNotFoundError) -> ModuleNotFoundError:
        public = ModuleNotFoundError(self._strip(str(error)), name=self._strip(error.name or ""))
        return public.with_traceback(error.__traceback__)

    def _strip(self, text: str) -> str:
        return text.replace(self.prefix + ".", "")


class BundleLoader(SourceFileLoader):
    """Loads one source file of a bundle, with the bundle's own `__import__`, and writes no bytecode next to it."""

    def __init__(self, space: ImportSpace, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.space = space

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the source; a `__pycache__` in a shared folder is neither trusted nor written."""
        path = self.get_filename(fullname)
        source = self.get_data(path)
        self.space.check(path, source)
        code: CodeType = self.source_to_code(source, path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code with the bundle's builtins."""
        vars(module)["__builtins__"] = self.space.builtins
        super().exec_module(module)


class _FolderLoader(BundleLoader):
    """Stands for a folder that has no `__init__.py`."""

    def get_code(self, fullname: str) -> CodeType:
        return compile("", self.get_filename(fullname), "exec")

    def get_source(self, fullname: str) -> str:
        return ""


class _ProtoLoader(Loader):
    """Puts the gateway's messages in place of a copy that a bundle carries in one of its packages."""

    def exec_module(self, module: ModuleType) -> None:
        # Import takes what is in sys.modules when the loader is done.
        tail = module.__name__.rpartition(".")[2]
        sys.modules[module.__name__] = importlib.import_module(f"tyk.proto.{tail}")


class _BundleFinder(MetaPathFinder):
    """Finds the modules of all bundles by the first part of their names."""

    def __init__(self) -> None:
        self.spaces: dict[str, ImportSpace] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        space = self.spaces.get(fullname.partition(".")[0])
        return None if space is None else space.find_spec(fullname, path or ())


_finder: Final = _BundleFinder()


def space_of(frame: FrameType | None) -> ImportSpace | None:
    """Return the space of the innermost bundle code on the stack that `frame` is the end of."""
    while frame is not None:
        owner = getattr(frame.f_builtins.get("__import__"), "__self__", None)
        if isinstance(owner, ImportSpace):
            return owner
        frame = frame.f_back
    return None


def _importer(globals_: Mapping[str, Any] | None) -> str:
    """Return the name of the module that imports; "" for a package, whose own parts have its name in front."""
    if not globals_ or "__path__" in globals_:
        return ""
    return str(globals_.get("__name__", ""))


def _folder_spec(name: str, loader: _FolderLoader, folders: list[str]) -> ModuleSpec:
    spec = ModuleSpec(name, loader, is_package=True)
    spec.submodule_search_locations = folders
    return spec


def _nested_modules(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield `(util, lib.util)` for `lib/util.py`, last first so that the first of a name wins in a dict."""
    for file in reversed(list(files)):
        path = PurePosixPath(file)
        if path.suffix != ".py" or len(path.parts) < 2:
            continue
        parts = path.parts[:-1] if path.stem == "__init__" else (*path.parts[:-1], path.stem)
        if len(parts) > 1 and all(part.isidentifier() for part in parts):
            yield parts[-1], ".".join(parts)
