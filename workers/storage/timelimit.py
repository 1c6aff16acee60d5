"""Run calls in separate threads, so that a caller waits no longer than it wants.

Socket timeouts do not limit a whole call: a name lookup has none, a TLS or Sentinel handshake has many steps, and a
peer that sends one byte now and then never exceeds one.
"""

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from tykpy.ipc.clock import monotonic
from tykpy.workers.process.guard import start_thread

MAX_THREADS: Final = 128
"""More threads than there can be callers; a call that finds them all stuck fails at once."""

JOIN_S: Final = 1.0
"""Seconds that `close` waits for abandoned calls; their threads do not keep the process from ending."""

_ResultT = TypeVar("_ResultT")


class _Outcome(NamedTuple):
    result: Any
    error: BaseException | None


_Order: TypeAlias = tuple[SimpleQueue[_Outcome], Callable[[], Any]]


class TimeLimitedCalls:
    """Threads, as many as there are simultaneous calls. Takes no lock, because finalizers may make calls, too."""

    def __init__(self, name: str) -> None:
        """Start no thread yet; `name` is the name of the threads."""
        self._name = name
        self._idle: list[_Runner] = []
        self._runners: list[_Runner] = []
        self._closed = False

    def call(self, function: Callable[[], _ResultT], limit_s: float) -> _ResultT:
        """Return the result of `function` or raise its exception; raise TimeoutError after `limit_s` seconds.

        It runs in the caller's context (`contextvars`), for logs and traces. A call that timed out continues in its
        thread until it ends by itself.
        """
        outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        self._claim().inbox.put((outcomes, partial(copy_context().run, function)))
        try:
            outcome = outcomes.get(timeout=limit_s)
        except Empty:
            raise TimeoutError(f"no answer within {limit_s:g} s") from None
        if outcome.error is not None:
            raise outcome.error
        result: _ResultT = outcome.result
        return result

    def close(self) -> None:
        """End the threads, waiting a short time for those that are stuck."""
        self._closed = True
        runners = list(self._runners)
        for runner in runners:
            runner.inbox.put(None)
        end_s = monotonic() + JOIN_S
        for runner in runners:
            with suppress(Empty):
                runner.ended.get(timeout=max(0.0, end_s - monotonic()))

    def _claim(self) -> "_Runner":
        if self._closed:
            raise ConnectionError("closed")
        with suppress(IndexError):
            return self._idle.pop()
        if len(self._runners) >= MAX_THREADS:
            raise TimeoutError(f"{MAX_THREADS} calls are still without an answer")
        runner = _Runner(self._idle)
        start_thread(self._name, runner.run)
        self._runners.append(runner)
        return runner


class _Runner:
    """Runs one call after the other, in a thread."""

    def __init__(self, idle: "list[_Runner]") -> None:
        self.inbox: SimpleQueue[_Order | None] = SimpleQueue()
        self.ended: SimpleQueue[None] = SimpleQueue()
        self._idle = idle

    def run(self) -> None:
        """Run calls until there is None in the inbox."""
        while (order := self.inbox.get()) is not None:
            outcomes, function = order
            outcome = _outcome_of(function)
            # Become idle before the caller learns of the result, so that its next call finds this thread.
            self._idle.append(self)
            outcomes.put(outcome)
        self.ended.put(None)


def _outcome_of(function: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(function(), None)
    except BaseException as error:  # noqa: BLE001 (handed to the caller)
        return _Outcome(None, error)
