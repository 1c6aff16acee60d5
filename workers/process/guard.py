"""End the worker when one of its own loops fails; otherwise it would stay alive, answer pings, and serve nobody.

The broker fails the calls that were executing, gives the others to other workers, and starts a new one.
"""

import _thread
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

from tykpy.bundles import forked
from tykpy.bundles.plugin_errors import traceback_of
from tykpy.ipc.errors import IpcError
from tykpy.ipc.exits import WorkerExit
from tykpy.telemetry.log import Log, close_log

log: Final = Log("tykpy.worker")

# Bound before plugins are imported: a library may replace them (gevent.monkey), and threads would not be threads.
_start_new_thread: Final = _thread.start_new_thread
_get_ident: Final = _thread.get_ident
_threads: Final[dict[int, threading.Thread]] = vars(threading)["_active"]


def start_thread(name: str, loop: Callable[..., None], *arguments: Any) -> None:
    """Run a loop of the worker in a thread of its own. Raises RuntimeError or MemoryError if there is no room for one.

    It begins and ends without `threading`, which a library may replace in between.
    """
    _start_new_thread(_run_named, (name, loop, *arguments))


def _run_named(name: str, loop: Callable[..., None], *arguments: Any) -> None:
    with suppress(BaseException):  # whatever has become of `threading`
        threading.current_thread().name = name
    guarded(loop, *arguments)
    # Before CPython 3.12 it stays in the list of `threading.enumerate`.
    _threads.pop(_get_ident(), None)


def guarded(loop: Callable[..., None], *arguments: Any) -> None:
    """Run a loop of the worker; any exception ends the process."""
    try:
        loop(*arguments)
    except BaseException as error:  # noqa: BLE001 (the one place for each thread)
        give_up(error)


def give_up(error: BaseException) -> NoReturn:
    """End this process because of an error in one of its own loops."""
    if forked.is_child:
        forked.end(error)
    code = WorkerExit.CHANNEL if issubclass(type(error), IpcError) else WorkerExit.FAULT
    try:
        if code is WorkerExit.CHANNEL:
            log.error("the channel to the broker is of no more use: %s", error)
        else:
            log.error("a loop of the worker itself has failed", exc_info=(type(error), error, traceback_of(error)))
        close_log()
    finally:
        # Whatever fails above (there may be no memory for a message), and without waiting for other threads.
        os._exit(code)
