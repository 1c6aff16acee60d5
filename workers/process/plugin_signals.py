"""Confine the signal handlers that plugins install: an exception fails at most a call of the handler's own bundle.

Python runs handlers in the main thread, whatever it is doing: it may be in a hook of another bundle, or between two
hooks, where an exception would end the worker's own loop.
"""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from tyk.call import RUNNING
from tykpy.bundles import forked
from tykpy.bundles.imports.importer import space_of
from tykpy.bundles.plugin_errors import traceback_of
from tykpy.telemetry.log import Log

_log: Final = Log("tykpy.worker")
_signal: Final = signal.signal
_getsignal: Final = signal.getsignal


class _Confined:
    """A handler, and the name of the bundle that installed it."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], bundle: str | None) -> None:
        self.handler = handler
        self._bundle = bundle

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except BaseException as error:
            running = RUNNING.get()
            if forked.is_child or (running is not None and running[0].bundle == self._bundle):
                raise
            what = f"a handler of bundle {self._bundle} for {signal.Signals(number).name} failed between its hooks"
            _log.error("%s", what, exc_info=(type(error), error, traceback_of(error)))


def confine_handlers() -> None:
    """Replace `signal.signal` by a version that confines the handlers it is given."""
    signal.signal = _install
    signal.getsignal = _installed


def _installed(signalnum: Any) -> Any:
    return _own(_getsignal(signalnum))


def _install(signalnum: Any, handler: Any) -> Any:
    if callable(handler):
        space = space_of(sys._getframe())
        handler = _Confined(handler, None if space is None else space.bundle)
    return _own(_signal(signalnum, handler))


def _own(handler: Any) -> Any:
    """Return the plugin's own handler, without our wrapper."""
    return handler.handler if isinstance(handler, _Confined) else handler
