"""The event loop that the async hooks of all bundles share: no bundle can end it, or change it for the others."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

from tyk.call import RUNNING
from tykpy.bundles import forked
from tykpy.bundles.async_call import STARTED
from tykpy.ipc.clock import monotonic
from tykpy.telemetry.log import Log

_log: Final = Log("tykpy.worker")

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_Task: Final = asyncio.Task  # bound before plugins are imported, which may replace it


class SharedLoop(asyncio.SelectorEventLoop):
    """An event loop that hooks cannot stop or close.

    A task factory, a default executor and an exception handler are those of the bundle whose hook, or whose `on_start`
    function, has set them.
    """

    _is_made = False

    def __init__(self) -> None:
        super().__init__()
        self._factories: dict[str, Any] = {}
        self._executors: dict[str, ThreadPoolExecutor] = {}
        self._handlers: dict[str, Any] = {}
        """By bundle."""
        self._is_made = True

    def time(self) -> float:
        """Return the monotonic time, even if a library has replaced it in the `time` module."""
        return monotonic()

    def _refuse(self) -> NoReturn:
        raise RuntimeError("this event loop serves all async hooks of a worker: a hook cannot end it")

    def stop(self) -> None:
        self._refuse()

    def close(self) -> None:
        self._refuse()

    async def shutdown_asyncgens(self) -> None:
        self._refuse()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        self._refuse()

    def set_debug(self, enabled: bool) -> None:
        """Set the debug mode while the loop is made (PYTHONASYNCIODEBUG): it would slow the hooks of all bundles."""
        if not self._is_made:
            super().set_debug(enabled)
        elif enabled and not self.get_debug():
            _log.warning("bundle %s: set_debug has no effect in a worker; set PYTHONASYNCIODEBUG=1", owner())

    def set_task_factory(self, factory: Any) -> None:
        """Make the running bundle's tasks with `factory`; None: as usual. Raises TypeError if it is not callable."""
        if factory is None:
            self._factories.pop(owner(), None)
            return
        super().set_task_factory(factory)  # which checks it
        super().set_task_factory(self._make_task)
        self._factories[owner()] = factory

    def get_task_factory(self) -> Any:
        """Return the task factory of the running bundle, or None."""
        return self._factories.get(owner())

    def _make_task(self, _loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        factory = self._factories.get(owner())
        return _Task(coroutine, loop=self, **options) if factory is None else factory(self, coroutine, **options)

    def set_default_executor(self, executor: Executor) -> None:
        """Run what the running bundle gives to threads in `executor`. Raises TypeError if it is none."""
        if not isinstance(executor, ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._executors[owner()] = executor

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> "asyncio.Future[_T]":
        """Run a function in a thread of `executor`; None: of the running bundle's default executor."""
        if executor is None and self._executors:
            executor = self._executors.get(owner())
        return super().run_in_executor(executor, func, *args)

    def set_exception_handler(self, handler: Any) -> None:
        """Give what goes wrong in tasks and callbacks of the running bundle to `handler`; None: to the log.

        Raises TypeError if it is not callable.
        """
        if handler is None:
            self._handlers.pop(owner(), None)
            return
        super().set_exception_handler(handler)  # which checks it
        super().set_exception_handler(self._handle_error)
        self._handlers[owner()] = handler

    def get_exception_handler(self) -> Any:
        """Return the exception handler of the running bundle, or None."""
        return self._handlers.get(owner())

    def _handle_error(self, _loop: asyncio.AbstractEventLoop, error: dict[str, Any]) -> None:
        handler = self._handlers.get(owner(_context_of(error)))
        if handler is None:
            self.default_exception_handler(error)
        else:
            handler(self, error)

    def end(self) -> None:
        """Stop the loop because the worker ends."""
        super().stop()

    def dispose(self) -> None:
        """Close the stopped loop."""
        super().close()
        for executor in self._executors.values():
            executor.shutdown(wait=False)

    def abandon(self) -> None:
        """End this forked child as soon as its hook awaits something, before it repeats the work of other calls."""
        self._ready.clear()  # type: ignore[attr-defined]
        self.call_soon(forked.end, RuntimeError("a child that an async hook has forked cannot await anything"))


def owner(context: Context | None = None) -> str:
    """Return the bundle whose code runs here, or in a context; empty if that is not known."""
    running, started = (
        (RUNNING.get(), STARTED.get()) if context is None else (context.get(RUNNING), context.get(STARTED))
    )
    return running[0].bundle if running is not None else started or ""


def _context_of(error: dict[str, Any]) -> Context | None:
    """Return the context of what went wrong, None for the current one. Tasks of Python 3.11 do not show theirs."""
    for name in ("task", "future", "handle"):
        found: Any = error.get(name)
        if found is not None:
            context: Context = getattr(found, "_context", None) or getattr(found, "get_context", Context)()
            return context
    return None
