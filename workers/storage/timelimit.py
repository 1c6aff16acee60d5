"""Runs calls in threads of its own, so that a caller waits no longer than it wants.

Time-outs of a socket do not add up to a limit: a name lookup has none, a TLS or Sentinel handshake has many steps,
and a peer that sends one byte now and then never runs into one.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

MAX_THREADS: Final = 128
"""More threads than callers there can be; a call that finds them all stuck fails at once."""

JOIN_S: Final = 1.0
"""How long `close` waits for calls that were given up; their threads do not keep the process from ending."""

_ResultT = TypeVar("_ResultT")
_Order: TypeAlias = tuple[Future[Any], Callable[[], Any]]


class TimeLimitedCalls:
    """A set of threads that grows with the number of calls at a time."""

    def __init__(self, name: str) -> None:
        """Start no thread yet; `name` is what they will be called."""
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[_Runner] = []
        self._runners: list[_Runner] = []
        self._closed = False

    def call(self, function: Callable[[], _ResultT], limit_s: float) -> _ResultT:
        """Return what `function` returns, or raise what it raises; TimeoutError after `limit_s` seconds.

        A call given up goes on in its thread until it ends by itself.
        """
        future: Future[_ResultT] = Future()
        self._claim().inbox.put((future, function))
        try:
            return future.result(limit_s)
        except TimeoutError as error:
            if future.done():
                raise
            raise TimeoutError(f"no answer within {limit_s:g} s") from error

    def close(self) -> None:
        """End the threads, waiting a short time for those that are stuck."""
        with self._lock:
            self._closed = True
            runners = list(self._runners)
        for runner in runners:
            runner.inbox.put(None)
        end_s = time.monotonic() + JOIN_S
        for runner in runners:
            runner.join(max(0.0, end_s - time.monotonic()))

    def _claim(self) -> "_Runner":
        with self._lock:
            if self._closed:
                raise ConnectionError("closed")
            if self._idle:
                return self._idle.pop()
            if len(self._runners) >= MAX_THREADS:
                raise TimeoutError(f"{MAX_THREADS} calls are still without an answer")
            runner = _Runner(self._name, self._idle)
            self._runners.append(runner)
        runner.start()
        return runner


class _Runner(threading.Thread):
    """Runs one call after the other."""

    def __init__(self, name: str, idle: "list[_Runner]") -> None:
        super().__init__(name=name, daemon=True)
        self.inbox: SimpleQueue[_Order | None] = SimpleQueue()
        self._idle = idle

    def run(self) -> None:
        while (order := self.inbox.get()) is not None:
            self._execute(*order)

    def _execute(self, future: Future[Any], function: Callable[[], Any]) -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 (handed to the caller)
            self._idle.append(self)
            future.set_exception(error)
        else:
            # Idle before the caller knows: its next call finds this thread, and starts no other.
            self._idle.append(self)
            future.set_result(result)
