"""Let processes that multiprocessing starts afresh (`spawn`, `forkserver`) import the modules of bundles.

What such a child is to run is pickled: functions and classes are found again by the private names of their modules.
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

SPAWN: Final = "multiprocessing.spawn"
"""The module that prepares children, as the parent and they themselves import it."""
_KEY: Final = "tykpy_bundles"


def share(spawn: ModuleType, spaces: Callable[[], Iterable[object]]) -> None:
    """Have children unpickle `spaces()` before anything else, which makes the bundles' modules importable there."""
    prepared: Callable[[str], dict[str, Any]] = vars(spawn)["get_preparation_data"]
    if prepared.__module__ != spawn.__name__:
        return  # it has been replaced before

    def get_preparation_data(name: str) -> dict[str, Any]:
        """Return what a child needs to know, as the function of this name in multiprocessing.spawn does."""
        return {**prepared(name), _KEY: tuple(spaces())}

    vars(spawn)["get_preparation_data"] = get_preparation_data
