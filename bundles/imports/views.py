"""`importlib` and `pickle` as bundle code sees them: names in strings resolve to the bundle's own files first, too."""

import importlib
import importlib.resources
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, TypeAlias

VIEWED: Final = frozenset({"importlib", "pickle"})
"""The modules that bundle code gets a view of."""

Target: TypeAlias = Callable[[str], tuple[str, str] | None]
"""Says which module stands behind a name: `(its top-level module, itself)`, or None for an ordinary one."""


def views(target: Target) -> dict[str, ModuleType]:
    """Return the modules to hand out in place of `importlib`, those of its parts that take names, and `pickle`."""

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
    """Return a view whose loads find the bundle's classes also in pickles of other processes, by their own names."""

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
    """Wrap the functions whose first argument is a package's name, or the package; without one it is the caller's."""

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
