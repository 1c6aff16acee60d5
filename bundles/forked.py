"""Ends children that plugin code forks where they come back from it: a copy of a worker must not become a second one.

Within the code that forked it a child may do what it likes; those of `multiprocessing` and `subprocess` never return.
"""

import _thread
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

_get_ident: Final = _thread.get_ident
"""Bound before plugins are imported: gevent.monkey replaces it."""
is_child = False
"""This process is not the worker but was forked by it."""


def watch(abandon: Callable[[], None]) -> None:
    """Know children of this process from now on; `abandon` is called in each, to let go of what is the worker's."""

    def after_fork() -> None:
        global is_child
        is_child = True
        abandon()

    os.register_at_fork(before=_hide_thread, after_in_parent=_show_thread, after_in_child=after_fork)


class _Hidden(threading.local):
    thread: threading.Thread | None = None


_hidden = _Hidden()
_threads: dict[int, threading.Thread] = vars(threading).get("_active", {})


def _hide_thread() -> None:
    """Have `threading` make the thread that forks the child's main thread.

    Before CPython 3.11.9 and 3.12.3 it cannot for one that it has not started itself, such as those that run hooks: the
    exit code of every `multiprocessing.Process` is 1 then (gh-102512).
    """
    if isinstance(_threads.get(_get_ident()), threading._DummyThread):
        _hidden.thread = _threads.pop(_get_ident())


def _show_thread() -> None:
    if _hidden.thread is not None:
        _threads[_get_ident()], _hidden.thread = _hidden.thread, None


def end(error: BaseException | None = None) -> NoReturn:
    """End this child as a program would that returned, or raised `error`."""
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
