"""Log the stacks of hooks that run longer than `--slow-hook`.

A thread looks at all threads and tasks of the worker now and then. Hooks are told nothing and cost nothing: `run_hook`
is found on the stack, and its variables say which hook runs and since when.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, Final

from tyk.call import Call, Origin
from tykpy.bundles.hook import Hook
from tykpy.ipc.clock import monotonic_ns
from tykpy.telemetry.log import Log
from tykpy.telemetry.stacks import Stack, Work, stack_of_task, stack_of_thread
from tykpy.workers.dispatch.invocation import run_hook
from tykpy.workers.dispatch.log_fields import hook_fields
from tykpy.workers.process.guard import start_thread

REPEAT_SECONDS: Final = 60.0
"""Shortest time between two stacks of the same hook."""
LOOKS: Final = 4
"""Looks within the time that a hook may take."""
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks."""
_RUN_HOOK: Final = run_hook.__code__
_SLOW: Final = "slow"
_NS_PER_S: Final = 1_000_000_000

_log: Final = Log("tykpy.worker")


_Running = tuple[Hook, Any, int, Origin]
"""What runs, as `run_hook` has it."""


def hook_on_stack(stack: Stack) -> Work:
    """Return the hook that a stack runs, and since when."""
    found = _running_hook(stack)
    if found is None:
        return Work()
    (hook, _, started, _), index = found
    seconds = (monotonic_ns() - started) / _NS_PER_S
    return Work(f"hook {hook.name} of bundle {hook.bundle}, {seconds:.1f} s", index + 1)


def _running_hook(stack: Stack) -> tuple[_Running, int] | None:
    """Return what `run_hook` runs on a stack, and the number of its frame."""
    for index, (frame, _) in enumerate(stack):
        if frame.f_code is _RUN_HOOK:
            running = frame.f_locals.get("running")
            return None if running is None else (running, index)
    return None


class SlowHooks:
    """Watches the hooks of this worker, from a thread that ends with the process."""

    def __init__(self, limit: float, tasks: Callable[[], Iterable[asyncio.Task[None]]]) -> None:
        """`limit`: seconds that a hook may run; `tasks`: those of the calls on the event loop."""
        self._limit = limit
        self._tasks = tasks
        self._pause = min(max(limit / LOOKS, SHORTEST_PAUSE), LONGEST_PAUSE)
        self._never: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        """Start the thread. Call this before any bundle is loaded, as for the worker's other threads."""
        start_thread("slow-hooks", self._run)

    def _run(self) -> None:
        while True:
            try:
                # Not time.sleep, which a plugin may have replaced.
                self._never.get(timeout=self._pause)
            except Empty:
                self._look()

    def _look(self) -> None:
        for frame in sys._current_frames().values():
            self._check(stack_of_thread(frame, outermost=_RUN_HOOK))
        for task in self._tasks():
            self._check(stack_of_task(task))

    def _check(self, stack: Stack) -> None:
        if (found := _running_hook(stack)) is not None:
            running, index = found
            self._judge(running, stack[index + 1 :])

    def _judge(self, running: _Running, stack: Stack) -> None:
        hook, _, started, _ = running
        now = monotonic_ns()
        seconds = (now - started) / _NS_PER_S
        if seconds < self._limit or now / _NS_PER_S < hook.silent_until.get(_SLOW, 0.0):
            return
        hook.silent_until[_SLOW] = now / _NS_PER_S + REPEAT_SECONDS
        lines = "".join(traceback.StackSummary.extract(iter(stack)).format()).rstrip("\n").split("\n")
        fields = hook_fields(Call(running), started)
        text = (
            f"hook {hook.name} of bundle {hook.bundle} has been running for {seconds:.1f} s (--slow-hook); its stack:"
        )
        _log.log(logging.WARNING, "%s", text, fields=fields, stack=lines)
