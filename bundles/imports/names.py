"""Resolves names of bundles' modules for libraries: the "fmt.JsonFormatter" that a bundle gives to logging.config.

A bundle's modules are in `sys.modules` under private names, so that no bundle sees another's. Imports of a library
find what is installed, as ever; only a name that is unknown there is taken from the bundle that the library works for.
While a bundle is loaded its modules are in `sys.modules` under their own names as well, as in the gateway's embedded
Python, for code that looks there (pickle); each bundle sees its own through them.
"""

import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, TypeAlias

Resolve: TypeAlias = Callable[[str], str | None]
"""Returns the full name of what the bundle that this thread works for has under a name; None: nothing."""

_bootstrap: Final[Any] = importlib._bootstrap
_find_and_load: Final = _bootstrap._find_and_load


class OwnModule(ModuleType):
    """Stands in `sys.modules` for all bundles' modules of one name: its attributes are those of the caller's."""

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


def install(resolve: Resolve) -> None:
    """Have imports of modules that are not loaded ask `resolve` first.

    A finder would not do: importlib puts what finders find into `sys.modules`, for everybody.
    """

    def find_and_load(name: str, import_: Any) -> Any:
        top = name.partition(".")[0]
        full = resolve(name) if is_free(top) else None
        if full is None:
            if top in sys.modules and is_free(top):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return _find_and_load(name, import_)
        try:
            return _find_and_load(full, import_)
        except ModuleNotFoundError as error:
            raise renamed(error, full[: len(full) - len(name) + len(top)], top) from None

    # Python cuts frames of importlib out of tracebacks by the name of their file.
    find_and_load.__code__ = find_and_load.__code__.replace(co_filename=_find_and_load.__code__.co_filename)
    _bootstrap._find_and_load = find_and_load


def is_free(top: str) -> bool:
    """Say whether no installed module of that name is loaded."""
    return type(sys.modules.get(top)) in (OwnModule, type(None))


def renamed(error: ModuleNotFoundError, private: str, public: str) -> ModuleNotFoundError:
    """Return an error that calls a module by its public name, with the traceback of `error`."""
    name = (error.name or "").replace(private, public)
    return ModuleNotFoundError(str(error).replace(private, public), name=name).with_traceback(error.__traceback__)


def publish(name: str, resolve: Resolve) -> None:
    """Put a bundle's module into `sys.modules` under its own name, unless there is one of that name."""
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
