"""Run the functions that bundles have for the start and the end of a worker (`on_start`, `on_stop`)."""

import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import Any, Final

from tykpy.bundles import forked
from tykpy.bundles.async_call import STARTED
from tykpy.bundles.bundle import BundlePart
from tykpy.bundles.errors import BundleError
from tykpy.bundles.plugin_errors import bundle_failed, from_plugin, traceback_of
from tykpy.ipc.clock import monotonic
from tykpy.ipc.exits import ON_STOP_S
from tykpy.telemetry.log import Log
from tykpy.workers.process.guard import start_thread

_log: Final = Log("tykpy.worker")


class Lifespan:
    """Starts the bundles of a worker one after the other, and stops them at the same time."""

    def __init__(self, run_async: Callable[[Coroutine[Any, Any, object]], object]) -> None:
        """`run_async` runs a coroutine on the event loop of the hooks, waits for its end and raises what it raises."""
        self._run_async = run_async
        self._started: list[BundlePart] = []

    def start(self, part: BundlePart) -> None:
        """Run the `on_start` functions of a part. Raises BundleError, at the first that fails."""
        for function in part.on_start:
            try:
                self._call(part, function)
            except BaseException as error:
                failed = bundle_failed(error, str(part.root), function.__code__.co_filename)
                message = f"@on_start {function.__name__} failed: {failed.message}"
                raise BundleError(message, failed.file, failed.line) from error
        if part.on_stop:
            self._started.append(part)

    @property
    def has_stops(self) -> bool:
        """Whether there is anything to run as the worker ends."""
        return bool(self._started)

    def stop(self) -> None:
        """Run the `on_stop` functions of all started parts, and wait at most `ON_STOP_S` seconds for them.

        Each part has a thread of its own: one that hangs takes no time from the others.
        """
        ended: SimpleQueue[BundlePart] = SimpleQueue()
        running = [part for part in self._started if self._begin(part, ended)]
        end_s = monotonic() + ON_STOP_S
        try:
            while running:
                running.remove(ended.get(timeout=max(0.0, end_s - monotonic())))
        except Empty:
            for part in running:
                _log.error("bundle %s: @on_stop did not end within %g s", part.name, ON_STOP_S)

    def _begin(self, part: BundlePart, ended: "SimpleQueue[BundlePart]") -> bool:
        try:
            start_thread("on-stop", self._stop, part, ended)
        except (RuntimeError, MemoryError) as error:
            _log.error("bundle %s: @on_stop does not run: %s", part.name, error)
            return False
        return True

    def _stop(self, part: BundlePart, ended: "SimpleQueue[BundlePart]") -> None:
        for function in part.on_stop:
            try:
                self._call(part, function)
            except BaseException as error:  # noqa: BLE001 (plugin code may raise anything)
                _log_failure(part, function, error)
        ended.put(part)

    def _call(self, part: BundlePart, function: FunctionType) -> None:
        context = Context()
        context.run(STARTED.set, part.name)
        try:
            result = context.run(function)
            if inspect.iscoroutine(result):
                context.run(self._run_async, result)
        except BaseException as error:
            if forked.is_child:
                forked.end(error)
            raise
        if forked.is_child:
            forked.end()


def _log_failure(part: BundlePart, function: FunctionType, error: BaseException) -> None:
    trace = from_plugin(traceback_of(error), str(part.root))
    with suppress(BaseException):  # the exception's own code
        _log.error("bundle %s: @on_stop %s failed", part.name, function.__name__, exc_info=(type(error), error, trace))
