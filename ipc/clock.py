"""The clocks of workers, out of reach of plugins.

A library that freezes time replaces the clocks of `time` in every module that has them, and finds them by identity
(freezegun). These belong to a second instance of that module, and cost the same.
"""

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Final


def _second_instance(name: str) -> ModuleType:
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_time: Final = _second_instance("time")
monotonic: Final[Callable[[], float]] = _time.monotonic
monotonic_ns: Final[Callable[[], int]] = _time.monotonic_ns
time_ns: Final[Callable[[], int]] = _time.time_ns
