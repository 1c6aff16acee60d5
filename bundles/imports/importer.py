"""Give every bundle imports of its own: two bundles, and tykpy, may have modules of the same names.

A bundle's modules live in `sys.modules` below a private package (`tykpy_<name>_<hash>`). Their globals carry a copy
of `builtins` whose `__import__` looks into the bundle's files first: the interpreter takes `__import__` from there for
every import statement, also inside functions, in threads and in coroutines. Folders of the bundle that it adds to
`sys.path` are its own as well. Modules named in strings are in `names.py`, the loaders in `loaders.py`, and the search
for installed modules in `lookup.py`.
"""

import builtins
import functools
import hashlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path, PurePosixPath
from types import FrameType, ModuleType
from typing import Any, Final
from zipimport import ZipImportError

from tyk.call import RUNNING
from tykpy.bundles.imports import names
from tykpy.bundles.imports.loaders import (
    AliasLoader,
    BundleLoader,
    CompiledLoader,
    FolderLoader,
    OwnFolder,
    OwnZip,
    ZipLoader,
    folder_spec,
    is_namespace,
)
from tykpy.bundles.imports.lookup import has_compiled_parts, has_python, is_installed, nested_modules
from tykpy.bundles.imports.names import VIEWED, views

_log: Final = logging.getLogger("tykpy.worker")

_PROTO_NAME: Final = re.compile(
    r"coprocess_(common|mini_request_object|object|response_object|return_overrides|session_state)_pb2"
)
"""The gateway's messages. Bundles get ours in place of their own copies: the classes of the hooks' arguments."""

_PROTOBUF: Final = re.compile(r"\bgoogle\.(protobuf|_upb)(\..*)?$")
"""The library that these messages are made with, for the same reason."""

_TYK_NAMES: Final = frozenset({"event", "object", "request", "session"})
"""Modules of the package `tyk` that are at the top level in Tyk's embedded Python."""

_import: Final = builtins.__import__
_normal: Final = functools.lru_cache(maxsize=4096)(os.path.normpath)


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
        """Own the files below `root`; for a `single` file, only that file.

        `sealed`: the SHA-256 of each file by name. Files that differ from it, or are not in it, are never imported.
        """
        self.prefix = prefix
        self.bundle = bundle
        self.root = root
        self.builtins: dict[str, Any] = dict(vars(builtins), __import__=self.import_name)
        self._files = tuple(files)
        self._only = frozenset(PurePosixPath(name).stem for name in files) if single else None
        self._sealed = sealed
        self._nested = dict(nested_modules(files))
        self._known: dict[str, str | None] = {}
        self._views: Mapping[str, ModuleType] = views(self.target)
        self.roots = tuple(dict.fromkeys((str(root), os.path.realpath(root))))
        self._added: list[str] = []
        self._names: set[str] = set()
        """Names of the bundle's modules in `sys.modules`, and of modules that were looked for in vain."""
        self._started: list[str] = []
        self._finders: dict[str, FileFinder] = {}
        self._published: dict[str, str] = {}
        self._is_loading = True

    def open(self) -> None:
        """Make the bundle's modules importable. Raises ValueError if the prefix is in use."""
        if self.prefix in _finder.spaces:
            raise ValueError(f"the import prefix {self.prefix} is in use")
        _finder.add(self)
        self._make_package(self.prefix, self.root)

    def loaded(self) -> None:
        """End the load: take what the bundle put into `sys.path` and `sys.modules` out again."""
        self._added = self.folders()
        self._clear_path()
        self._is_loading = False
        self._withdraw()

    def reopen(self, added: list[str]) -> None:
        """Be as after a load that added these folders to `sys.path`."""
        self._added = added
        self._is_loading = False

    @contextmanager
    def own_builtins(self) -> Iterator[None]:
        """Make what the bundle's code puts into `builtins` meanwhile (`gettext.install`) the bundle's own."""
        before, missing = vars(builtins).copy(), object()
        try:
            yield
        finally:
            after = vars(builtins).copy()
            changed = {name: value for name, value in after.items() if before.get(name, missing) is not value}
            for name in changed.keys() - before.keys():
                del vars(builtins)[name]
            vars(builtins).update(before)
            changed.pop("__import__", None)
            self.builtins.update(changed)

    def close(self) -> None:
        """Forget the bundle's modules; code that still runs keeps its globals, and cannot import anything new."""
        self.loaded()
        _finder.remove(self)
        for name in self._names:
            sys.modules.pop(name, None)

    def __reduce__(self) -> Any:
        """Make the bundle's modules importable in the process that unpickles it."""
        single = self._only is not None
        files = self.prefix, self.bundle, self.root, self._files, single, self._sealed
        return _reopened, (files, self.folders())

    def load(self, file: str) -> ModuleType:
        """Import one file of the bundle by its path below the root; raises whatever its code raises."""
        path = PurePosixPath(file).with_suffix("")
        parts = path.parts[:-1] if path.name == "__init__" else path.parts
        if any("." in part for part in parts):
            raise ImportError(f"{file} cannot be imported: a module's name has no dots", name=file)
        return importlib.import_module(".".join((self.prefix, *parts)))

    def modules(self) -> list[ModuleType]:
        """Return the bundle's loaded modules, without the packages made for folders."""
        return [sys.modules[name] for name in self._started if name in sys.modules]

    def folders(self) -> list[str]:
        """Return the folders of the bundle that it added to `sys.path`, in that order."""
        now = [folder for entry in self._entries() if (folder := self.own(entry)) is not None]
        return list(dict.fromkeys((*now, *self._added)))

    def has_file(self, file: str) -> bool:
        """Return whether a file is the bundle's."""
        return self.own(file) is not None and self._allows(os.path.dirname(file), PurePosixPath(file).stem)

    def carried(self) -> frozenset[str]:
        """Return the names of the modules that `pip install --target` put into the bundle's folder."""
        found = MetadataPathFinder.find_distributions(DistributionFinder.Context(path=[str(self.root)]))
        return frozenset(file.parts[0].partition(".")[0] for package in found for file in package.files or ())

    def own(self, path: str) -> str | None:
        """Return a path as one below `root`, or None if it lies elsewhere."""
        if not isinstance(path, str):
            return None
        path = _absolute(path)
        for root in self.roots:
            if (path == root or path.startswith(root + os.sep)) and not _finder.is_installed(path, root):
                return str(self.root) + path[len(root) :]
        return None

    def target(self, name: str, importer: str = "") -> tuple[str, str] | None:
        """Return the module behind `name` in this bundle, as `(its top-level module, itself)`, by full names.

        None for an ordinary name, also where the file `redis.py` imports `redis`.
        Raises ModuleNotFoundError for a compiled package of another bundle.
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
        """Import as `builtins.__import__` does, with the bundle's own modules first."""
        try:
            found = None if level else self.target(name, _importer(globals))
            if found is None:
                module = self._import_other(name, globals, locals, fromlist or (), level)
                return self._view(module, name, fromlist) if name.partition(".")[0] in VIEWED else module
            head, full = found
            module = _import(full, globals, locals, fromlist or (), 0)
            return module if fromlist else sys.modules[head]
        except ModuleNotFoundError as error:
            if self._is_private(error.name or ""):
                raise names.renamed(error, error.name or "", self.public(error.name or "")) from None
            raise

    def find_spec(self, fullname: str, path: Sequence[str]) -> ModuleSpec:
        """Find one of the bundle's modules below the folders `path`. Raises ModuleNotFoundError.

        Never returns None: Python's own finder would be asked next, and write `__pycache__` into the bundle.
        """
        self._names.add(fullname)
        tail = fullname.rpartition(".")[2]
        if _PROTO_NAME.fullmatch(tail):
            return ModuleSpec(fullname, AliasLoader(f"tyk.proto.{tail}"))
        public = self.public(fullname)
        protobuf = _PROTOBUF.search(public)
        if protobuf:
            return ModuleSpec(fullname, AliasLoader(protobuf.group()))
        spec = self.search(fullname, path)
        if spec is not None:
            return spec
        if self._is_shared(fullname.rpartition(".")[0]) and "." in public and _is_installed(public):
            return ModuleSpec(fullname, AliasLoader(public))
        raise ModuleNotFoundError(f"No module named {public!r}", name=fullname)

    def search(self, fullname: str, path: Sequence[str]) -> ModuleSpec | None:
        """Look for a module in folders of the bundle; a namespace package may have parts in several of them."""
        portions: list[str] = []
        for folder in path:
            spec = self._look(fullname, folder)
            if spec is not None and spec.loader is not None:
                if is_namespace(spec):
                    spec.submodule_search_locations = self._portions(fullname, path)
                return spec
            portions += (spec and spec.submodule_search_locations) or ()
        if not portions:
            return None
        portions = self._portions(fullname, path)
        # With a loader, so that importlib.resources works on it.
        return folder_spec(fullname, FolderLoader(self, fullname, f"{portions[0]}/__init__.py"), portions)

    def public(self, fullname: str) -> str:
        """Return the name by which the bundle imports one of its modules; other names stay as they are."""
        for top, head in list(self._known.items()):
            if head is not None and (fullname == head or fullname.startswith(head + ".")):
                return top + fullname[len(head) :]
        return fullname.replace(self.prefix + ".", "")

    def resolve(self, name: str) -> str | None:
        """Return the full name of the bundle's module that code outside of the bundle means by `name`, or None.

        Unlike for the bundle itself, installed modules go before the bundle's own.
        """
        try:
            found = self.target(name)
        except ModuleNotFoundError:
            return None  # another bundle's: libraries may have loaded it
        if found is None or (self._is_private(found[0]) and _is_installed(name.partition(".")[0])):
            return None
        return found[1]

    def started(self, fullname: str) -> None:
        """Note a module that is about to run; while the bundle loads, libraries find it in `sys.modules`."""
        if self._is_private(fullname):
            self._started.append(fullname)
            self._publish(fullname)

    def check(self, path: str, content: bytes) -> None:
        """Raise ImportError if a file of a signed bundle is not as it was signed."""
        if self._sealed is None:
            return
        name = PurePosixPath(path).relative_to(self.root).as_posix()
        if self._sealed.get(name) != hashlib.sha256(content).digest():
            state = "was changed since its signature was checked" if name in self._sealed else "is not in file_list"
            raise ImportError(f"{name} {state}: a signed bundle is imported as it was signed", name=name, path=path)

    def _head(self, top: str) -> str | None:
        if top in self._known:
            return self._known[top]
        head = self._locate(top)
        if head is not None or top in sys.modules:  # else it may be in a folder that is added to sys.path later
            self._known[top] = head
        return head

    def _locate(self, top: str) -> str | None:
        if top == "gateway":
            return "tyk.gateway"
        if _PROTO_NAME.fullmatch(top):
            return f"tyk.proto.{top}"
        if top == "tyk" or top in sys.builtin_module_names or top in _finder.spaces:
            return None
        folder = self._folder_of(top)
        if folder is not None:
            return None if self._is_compiled(top, folder) else f"{self._package(folder)}.{top}"
        if top in self._nested and top not in sys.stdlib_module_names:
            return f"{self.prefix}.{self._nested[top]}"
        if top in _finder.compiled:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        return f"tyk.{top}" if top in _TYK_NAMES and not _is_installed(top) else None

    def _folder_of(self, top: str) -> str | None:
        """Look for a top-level module in the bundle's folder, then in those that it added to `sys.path`."""
        root = str(self.root)
        added: Sequence[str] = () if top in sys.stdlib_module_names else self.folders()
        for folder in dict.fromkeys((root, *added)):
            spec = self.search(f"{self.prefix}.{top}", [folder])
            # A folder without __init__.py yields to installed modules of that name, unless there is Python in it.
            if spec is not None and (
                not isinstance(spec.loader, FolderLoader)
                or (top not in sys.stdlib_module_names and (has_python(folder, top) or not _is_installed(top)))
            ):
                return folder
        return None

    def _is_compiled(self, top: str, folder: str) -> bool:
        """Return whether a third-party package has compiled parts; the first bundle that imports it owns it.

        Such modules are loaded once, under their own names: their C code may look for itself in `sys.modules` (numpy),
        and a second copy may break the first (lxml).
        """
        if not has_compiled_parts(folder, top) or (folder == str(self.root) and top not in self.carried()):
            return False
        owner, place = _finder.compiled.setdefault(top, (self, folder))
        if _is_installed(top):
            used = "the one that is installed"
        elif owner.prefix != self.prefix:
            used = f"that of bundle {owner.bundle} ({place})"
        else:
            return True
        _log.warning(
            "bundle %s: %s has compiled parts, which a process loads once: instead of %s it gets %s; "
            "to choose its version, install it where tykpy is installed",
            self.bundle,
            top,
            os.path.join(folder, top),
            used,
        )
        return True

    def _portions(self, fullname: str, path: Sequence[str]) -> list[str]:
        """Return the folders of a namespace package; at the top level, also those in the bundle's `sys.path`."""
        tops = [str(self.root), *self.folders()]
        folders = dict.fromkeys((*path, *tops) if path[0] in tops else path)
        specs = [spec for folder in folders if (spec := self._look(fullname, folder)) is not None]
        return list(dict.fromkeys(place for spec in specs for place in spec.submodule_search_locations or ()))

    def _look(self, fullname: str, folder: str) -> ModuleSpec | None:
        if self.own(folder) is None or not self._allows(folder, fullname):
            return None
        if self._is_among_others(folder):
            # A finder would list the folder once for each bundle in it.
            file = os.path.join(folder, fullname.rpartition(".")[2] + ".py")
            return spec_from_file_location(fullname, file, loader=BundleLoader(self, fullname, file))
        finder = self._finders.get(folder)
        if finder is not None:
            return finder.find_spec(fullname)
        if os.path.isdir(folder):
            finder = self._finders[folder] = FileFinder(folder, *self._loaders())
            return finder.find_spec(fullname)
        try:
            return ZipLoader(self, folder).find_spec(fullname)
        except ZipImportError:
            return None

    def _allows(self, folder: str, fullname: str) -> bool:
        """Return whether the bundle owns modules in a folder: a single file owns its folder only once in `sys.path`."""
        return not self._is_among_others(folder) or fullname.rpartition(".")[2] in (self._only or ())

    def _is_among_others(self, folder: str) -> bool:
        return self._only is not None and folder == str(self.root) and folder not in self.folders()

    def _loaders(self) -> list[tuple[Any, list[str]]]:
        def source(fullname: str, path: str) -> BundleLoader:
            return BundleLoader(self, fullname, path)

        def extension(fullname: str, path: str) -> CompiledLoader:
            return CompiledLoader(self, fullname, path)

        return [(extension, EXTENSION_SUFFIXES), (source, SOURCE_SUFFIXES)]

    def _package(self, folder: str) -> str:
        """Return the package for a folder of the bundle, so that a file is one module under any name."""
        parts = Path(folder).relative_to(self.root).parts
        if not parts or (self._only is None and not any("." in part for part in parts)):
            return ".".join((self.prefix, *parts))
        name = f"{self.prefix}.{'_'.join(parts).replace('.', '_')}"
        if name not in sys.modules:
            self._make_package(name, Path(folder))
        return name

    def _make_package(self, name: str, folder: Path) -> None:
        loader = FolderLoader(self, name, str(folder / "__init__.py"))
        sys.modules[name] = module_from_spec(folder_spec(name, loader, [str(folder)]))
        self._names.add(name)

    def _import_other(
        self,
        name: str,
        globals_: Mapping[str, Any] | None,
        locals_: Mapping[str, Any] | None,
        fromlist: Sequence[str],
        level: int,
    ) -> ModuleType:
        """Import a foreign module; while it runs, it must not find the bundle's modules in `sys.modules`."""
        if level or not self._published or name in sys.modules:
            module = _import(name, globals_, locals_, fromlist, level)
        else:
            published = self._withdraw()
            try:
                module = _import(name, globals_, locals_, fromlist, level)
            finally:
                for fullname in published.values():
                    self._publish(fullname)
        if type(module) is names.OwnModule:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return module

    def _publish(self, fullname: str) -> None:
        name = self.public(fullname)
        if self._is_loading and name not in sys.modules and self.resolve(name) == fullname:
            names.publish(name, _resolve)
            self._published[name] = fullname

    def _withdraw(self) -> dict[str, str]:
        published, self._published = self._published, {}
        for name in published:
            names.withdraw(name)
        return published

    def _clear_path(self) -> None:
        for entry in self._entries():
            sys.path.remove(entry)

    def _entries(self) -> list[str]:
        """Return the entries of `sys.path` that the bundle has added."""
        return [entry for entry in sys.path if not _finder.was_on_path(entry) and self.own(entry) is not None]

    def _view(self, module: ModuleType, name: str, fromlist: Sequence[str] | None) -> ModuleType:
        return self._views.get(name if fromlist else name.partition(".")[0], module)

    def _is_shared(self, package: str) -> bool:
        """Return whether parts of a package may be installed: it is a namespace, or alias of an installed package."""
        spec = getattr(sys.modules.get(package), "__spec__", None)
        loader = getattr(spec, "loader", None)
        return not isinstance(loader, BundleLoader) or isinstance(loader, FolderLoader)

    def _is_private(self, name: str) -> bool:
        return name == self.prefix or name.startswith(self.prefix + ".")


class _BundleFinder(MetaPathFinder):
    """Finds the modules of all bundles by the first part of their names."""

    def __init__(self) -> None:
        self.spaces: dict[str, ImportSpace] = {}
        self.compiled: dict[str, tuple[ImportSpace, str]] = {}
        """Modules with compiled parts, with the bundle that owns each, and its folder."""
        self._by_root: dict[str, list[ImportSpace]] = {}
        self._first_path: tuple[str, ...] = ()
        """`sys.path` before the first bundle."""

    def add(self, space: ImportSpace) -> None:
        """Start to find the modules of a bundle."""
        self._first_path = self._first_path or tuple(map(_absolute, sys.path))
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if self._open_folder not in sys.path_hooks:
            sys.path_hooks.insert(0, self._open_folder)
        names.install(_resolve, self.acting_spaces)
        self.spaces[space.prefix] = space
        for root in space.roots:
            self._by_root.setdefault(root, []).append(space)

    def remove(self, space: ImportSpace) -> None:
        """Forget a bundle."""
        if self.spaces.get(space.prefix) is space:
            del self.spaces[space.prefix]
            for root in space.roots:
                self._by_root[root].remove(space)
            for top in [top for top, (owner, _) in self.compiled.items() if owner is space and top not in sys.modules]:
                del self.compiled[top]

    def acting_spaces(self) -> Sequence[ImportSpace]:
        """Return the space of the bundle on whose behalf the caller runs, or all of them where none is known."""
        space = acting_space()
        return tuple(self.spaces.values()) if space is None else (space,)

    def around(self, path: str) -> Iterator[ImportSpace]:
        """Yield the bundles in whose folders a path lies, the innermost first."""
        path = _absolute(path)
        for folder in (path, *map(str, Path(path).parents)):
            yield from self._by_root.get(folder, ())

    def is_installed(self, path: str, root: str) -> bool:
        """Return whether a path below a bundle's folder was in `sys.path` before: a project's virtual environment.

        The folder itself may be there, too, as in a test of the bundle: its files are the bundle's all the same.
        """
        return any(
            len(entry) > len(root) and (path == entry or path.startswith(entry + os.sep)) for entry in self._first_path
        )

    def was_on_path(self, entry: object) -> bool:
        """Return whether an entry of `sys.path` was there before the first bundle."""
        return isinstance(entry, str) and _absolute(entry) in self._first_path

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a private name, or a name that a library looks for on behalf of a bundle (importlib.util.find_spec)."""
        top = fullname.partition(".")[0]
        space = self.spaces.get(top)
        if space is not None:
            return space.find_spec(fullname, path or ())
        if top in self.compiled:
            owner, folder = self.compiled[top]
            return None if path is None and _is_installed(top) else owner.search(fullname, path or [folder])
        full = _resolve(fullname) if names.is_free(top) else None
        spec = None if full is None else find_spec(full)
        if full is None or spec is None:
            return None
        alias = ModuleSpec(f"{full}:alias", AliasLoader(full, spec.loader), origin=spec.origin)
        alias.submodule_search_locations = spec.submodule_search_locations
        return alias

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Find the metadata of packages inside the calling bundle, before that of installed ones."""
        space = acting_space()
        if space is None or context is None or "path" in vars(context):
            return ()
        name = context.name and space.public(context.name)
        folders = [str(space.root), *space.folders()]
        return MetadataPathFinder.find_distributions(DistributionFinder.Context(name=name, path=folders))

    def _open_folder(self, path: str) -> OwnFolder | OwnZip:
        """Open a bundle's folder or ZIP, as a path hook. Raises ImportError for other paths."""
        if not any(space.own(path) for space in self.around(path)):
            raise ImportError("not a folder of a bundle", path=path)
        return OwnFolder(path) if os.path.isdir(path) else OwnZip(path)


_finder: Final = _BundleFinder()


def space_of(frame: FrameType | None) -> ImportSpace | None:
    """Return the space of the innermost bundle code on the stack that ends in `frame`."""
    while frame is not None:
        owner = _owner(frame)
        if owner is not None:
            return owner
        frame = frame.f_back
    return None


def acting_space() -> ImportSpace | None:
    """Return the space of the bundle on whose behalf the caller runs.

    None at the top level of an installed module: it is imported for everybody, whichever bundle is the first.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = _owner(frame)
        if owner is not None:
            return owner
        if frame.f_code.co_name == "<module>":
            owner = _file_owner(frame.f_code.co_filename)
            # Without a spec it is no module, but text that a library executes (a template).
            if owner is not None or frame.f_globals.get("__spec__") is not None:
                return owner
        frame = frame.f_back
    running = RUNNING.get()
    return None if running is None else _file_owner(running[0].file)


def _reopened(files: tuple[str, str, Path, Sequence[str], bool, Mapping[str, bytes] | None], added: list[str]) -> Any:
    """Open a bundle that another process has loaded."""
    space = ImportSpace(*files)
    space.open()
    space.reopen(added)
    return space


def _absolute(path: str) -> str:
    """Return an absolute path; a relative one as it is where the working directory was removed."""
    try:
        absolute: str = _normal(path if path.startswith(os.sep) else os.path.join(os.getcwd(), path))
        return absolute
    except FileNotFoundError:
        return path


def _resolve(name: str) -> str | None:
    space = acting_space()
    return None if space is None else space.resolve(name)


def _owner(frame: FrameType) -> ImportSpace | None:
    owner = getattr(frame.f_builtins.get("__import__"), "__self__", None)
    return owner if isinstance(owner, ImportSpace) else None


def _file_owner(file: str) -> ImportSpace | None:
    """Return the space of a bundle's file that was run by its path (runpy, spec_from_file_location)."""
    return next((space for space in _finder.around(file) if space.has_file(file)), None)


def _is_installed(name: str) -> bool:
    """Return whether there is a module of that name outside of bundles."""
    return is_installed(name, _finder)


def _importer(globals_: Mapping[str, Any] | None) -> str:
    """Return the name of the importing module; "" for a package, whose modules have its name as prefix."""
    if not globals_ or "__path__" in globals_:
        return ""
    return str(globals_.get("__name__", ""))
