"""End children that plugin code forks when they return from it: a copy of a worker must not become a second worker.

Within the code that forked it, a child may do what it likes; children of `multiprocessing` and `subprocess` never
return. Code that an executor runs returns to the executor, which must not run its other calls a second time.
"""

import _thread
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import thread as executors
from contextlib import suppress
from queue import Empty
from types import CodeType, FrameType
from typing import Final, NoReturn

_get_ident: Final = _thread.get_ident
"""Bound before plugins are imported: gevent.monkey replaces it."""
_EXECUTOR_LOOP: Final[CodeType] = executors._worker.__code__
"""The loop of a thread of `ThreadPoolExecutor`, also of `asyncio.to_thread`."""
is_child = False
"""Whether this process was forked by plugin code, and is not the worker."""


def watch(abandon: Callable[[], None]) -> None:
    """Recognize children of this process from now on; each calls `abandon` to release the worker's resources."""

    def after_fork() -> None:
        global is_child
        is_child = True
        abandon()
        _leave_executor()

    os.register_at_fork(before=_hide_thread, after_in_parent=_show_thread, after_in_child=after_fork)


class _End:
    """What an executor of a child runs in place of the parent's calls."""

    def run(self) -> None:
        """End the child."""
        end()


def _leave_executor() -> None:
    """Have a child that was forked in a thread of an executor end when the thread looks for its next call."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is _EXECUTOR_LOOP:
            calls = frame.f_locals["work_queue"]
            with suppress(Empty):
                while True:
                    calls.get_nowait()
            calls.put(_End())
        frame = frame.f_back


class _Hidden(threading.local):
    thread: threading.Thread | None = None


_hidden = _Hidden()
_threads: dict[int, threading.Thread] = vars(threading).get("_active", {})


def _hide_thread() -> None:
    """Have `threading` make the forking thread the child's main thread.

    Before CPython 3.11.9 and 3.12.3 it cannot do so for a thread that it did not start, such as those that run hooks,
    and every `multiprocessing.Process` exits with 1 (gh-102512).
    """
    if isinstance(_threads.get(_get_ident()), threading._DummyThread):
        _hidden.thread = _threads.pop(_get_ident())


def _show_thread() -> None:
    if _hidden.thread is not None:
        _threads[_get_ident()], _hidden.thread = _hidden.thread, None


def end(error: BaseException | None = None) -> NoReturn:
    """End this child as a program ends that returned, or raised `error`."""
    code = 1
    try:
        code = _exit_code(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Whatever fails above must not send the child back into the worker's loops.
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
