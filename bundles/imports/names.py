"""Modules of bundles that are named in strings: "fmt.JsonFormatter" for logging.config, import_module("fmt"), pickles.

A bundle's modules are in `sys.modules` under private names, so that no bundle sees another's. Libraries import what is
installed, as ever; only a name that is unknown there is taken from the bundle that the library works for. Bundle code
gets views of `importlib` and `pickle` that look into the bundle's files first, as its import statements do.

While a bundle is loaded, its modules are in `sys.modules` under their own names as well, as in the gateway's embedded
Python, for code that looks there (pickle); each bundle sees its own through them.
"""

import importlib
import importlib.resources
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, TypeAlias

from tykpy.bundles.imports import spawned

VIEWED: Final = frozenset({"importlib", "pickle"})
"""The modules that bundle code gets a view of."""

Resolve: TypeAlias = Callable[[str], str | None]
"""Returns the full name of the module that the bundle this thread works for has under a name, or None."""
Target: TypeAlias = Callable[[str], tuple[str, str] | None]
"""Returns the module behind a name as `(its top-level module, itself)`, or None for an ordinary name."""

_bootstrap: Final[Any] = importlib._bootstrap
_find_and_load: Final = _bootstrap._find_and_load


class OwnModule(ModuleType):
    """A stand-in in `sys.modules` for all bundles' modules of one name: its attributes are those of the caller's."""

    def __init__(self, name: str, resolve: Resolve) -> None:
        super().__init__(name)
        ModuleType.__setattr__(self, "_resolve", resolve)

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute of the module. Raises AttributeError for a caller whose bundle has no such module."""
        return getattr(_module(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_module(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_module(self), name)

    def __dir__(self) -> Iterable[str]:
        return dir(_module(self))


def install(resolve: Resolve, spaces: Callable[[], Iterable[object]]) -> None:
    """Make imports of modules that are not loaded ask `resolve` first; share `spaces` with processes that are spawned.

    A finder would not do: importlib puts what finders find into `sys.modules`, for everybody.
    """

    def find_and_load(name: str, import_: Any) -> Any:
        top = name.partition(".")[0]
        full = resolve(name) if is_free(top) else None
        if full is None:
            if top in sys.modules and is_free(top):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            module = _find_and_load(name, import_)
            if name == spawned.SPAWN:
                spawned.share(module, spaces)
            return module
        try:
            return _find_and_load(full, import_)
        except ModuleNotFoundError as error:
            raise renamed(error, full[: len(full) - len(name) + len(top)], top) from None

    # Python cuts frames of importlib out of tracebacks by the name of their file.
    find_and_load.__code__ = find_and_load.__code__.replace(co_filename=_find_and_load.__code__.co_filename)
    _bootstrap._find_and_load = find_and_load
    if spawned.SPAWN in sys.modules:
        spawned.share(sys.modules[spawned.SPAWN], spaces)


def is_free(top: str) -> bool:
    """Return whether no installed module of that name is loaded."""
    return type(sys.modules.get(top)) in (OwnModule, type(None))


def renamed(error: ModuleNotFoundError, private: str, public: str) -> ModuleNotFoundError:
    """Return an error that calls a module by its public name, with the traceback of `error`."""
    name = (error.name or "").replace(private, public)
    return ModuleNotFoundError(str(error).replace(private, public), name=name).with_traceback(error.__traceback__)


def publish(name: str, resolve: Resolve) -> None:
    """Put a bundle's module into `sys.modules` under its own name, unless that name is taken."""
    sys.modules.setdefault(name, OwnModule(name, resolve))


def withdraw(name: str) -> None:
    """Take a bundle's module out of `sys.modules` again."""
    if type(sys.modules.get(name)) is OwnModule:
        del sys.modules[name]


def _module(stand_in: OwnModule) -> ModuleType:
    name = ModuleType.__getattribute__(stand_in, "__name__")
    full = ModuleType.__getattribute__(stand_in, "_resolve")(name)
    if full is None:
        raise AttributeError(f"{name} is a module of a bundle, and this code runs for none that has it")
    return importlib.import_module(full)


def views(target: Target) -> dict[str, ModuleType]:
    """Return what bundle code gets in place of `importlib`, those of its parts that take names, and `pickle`."""

    def import_module(name: str, package: str | None = None) -> ModuleType:
        """Import a module by its name, as `importlib.import_module` does."""
        return importlib.import_module(_translate(name, target), package)

    def find_spec(name: str, package: str | None = None) -> Any:
        """Return a module's spec, as `importlib.util.find_spec` does."""
        return importlib.util.find_spec(_translate(name, target), package)

    resources = _View(importlib.resources)
    vars(resources).update(_resource_functions(target))
    util = _View(importlib.util, find_spec=find_spec)
    whole = _View(importlib, import_module=import_module, resources=resources, util=util)
    return {"importlib": whole, "importlib.resources": resources, "importlib.util": util, "pickle": _pickle(target)}


class _View(ModuleType):
    """A module with a few names of its own; everything else is the real one's."""

    def __init__(self, real: ModuleType, **own: Any) -> None:
        super().__init__(real.__name__, real.__doc__)
        self._real = real
        dunders = {name: value for name, value in vars(real).items() if name.startswith("__")}
        vars(self).update(dunders, **own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _pickle(target: Target) -> ModuleType:
    """Return a view of `pickle` that also finds the bundle's classes in pickles of other processes."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            return super().find_class(_translate(module_name, target), global_name)

    def load(file: Any, **options: Any) -> Any:
        """Read an object from a file, as `pickle.load` does."""
        return Unpickler(file, **options).load()

    def loads(data: Any, /, **options: Any) -> Any:
        """Read an object from bytes, as `pickle.loads` does."""
        return Unpickler(io.BytesIO(data), **options).load()

    return _View(pickle, Unpickler=Unpickler, load=load, loads=loads)


def _translate(name: str, target: Target) -> str:
    found = None if name.startswith(".") else target(name)
    return name if found is None else found[1]


def _resource_functions(target: Target) -> dict[str, Any]:
    """Wrap the functions whose first argument is a package, or its name; by default it is the caller's package."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def resource(package: Any = None, *arguments: Any, **options: Any) -> Any:
            if package is None:
                package = sys._getframe(1).f_globals["__name__"]
            if isinstance(package, str):
                package = _translate(package, target)
            return function(package, *arguments, **options)

        return resource

    names = ("contents", "files", "is_resource", "open_binary", "open_text", "path", "read_binary", "read_text")
    return {name: wrap(getattr(importlib.resources, name)) for name in names if hasattr(importlib.resources, name)}
