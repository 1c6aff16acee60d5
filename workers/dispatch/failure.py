"""Turn an exception of a plugin into an error that names hook and line, and write its traceback to the log."""

import logging
import math
import traceback
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from tykpy.bundles import forked
from tykpy.bundles.errors import EVENT_META, WorkerError, WrongReturnError
from tykpy.bundles.plugin_errors import class_name, described, from_plugin, innermost, traceback_of
from tykpy.ipc.frame import FAULT, Packed, Status, pack_error
from tykpy.telemetry.log import Log
from tykpy.telemetry.rate_limited_log import QuietLog

if TYPE_CHECKING:
    from tykpy.bundles.hook import Hook

_RETURN: Final = "return"
_LOGGED: Final = (Status.HOOK_FAILED, Status.EXPIRED)
_log: Final = Log("tykpy.worker")
_failures: Final = QuietLog(_log)


def error_frame(error: BaseException) -> Packed:
    """Return the error frame for the exception that ended a call, and log it unless it has been logged."""
    if issubclass(type(error), WorkerError):  # not isinstance: it may ask the exception's own code
        known = cast(WorkerError, error)
        # Hooks that failed or were cancelled have been logged; the broker logs unknown event handlers.
        if known.status not in _LOGGED and EVENT_META not in (known.meta or {}):
            message = f"{known.status.name}: {known.message}"
            _failures.log(logging.WARNING, message, message)
        return pack_error(known.status, known.message, known.meta)
    meta: dict[str, object] = {FAULT: class_name(error)}
    if issubclass(type(error), MemoryError):
        # It may be for the size of this call, which says nothing about the next ones.
        meta = {}
        traceback.clear_frames(traceback_of(error))
    _log_failure(class_name(error), "a fault of tykpy itself", error, traceback_of(error))
    return pack_error(Status.INTERNAL, f"tykpy failed inside a worker: {described(error)}", meta)


def hook_failed(hook: "Hook", error: BaseException) -> WorkerError:
    """Log the traceback, from the plugin's first frame on, and return the error of the dispatch."""
    if forked.is_child:
        forked.end(error)
    if type(error) is WrongReturnError:
        return _wrong_return(hook, error)
    own = from_plugin(traceback_of(error), hook.root)
    if issubclass(type(error), MemoryError):
        # Free what the hook had collected, or there is no memory left to report the failure.
        traceback.clear_frames(own)
    place = _place(hook, error)
    failed = f"hook {hook.name} of bundle {hook.bundle} failed"
    # Failures of one class at one line are repetitions, even if the values in their messages differ.
    _log_failure(f"{class_name(error)} {place} {hook.name}", failed, error, own)
    return WorkerError(Status.HOOK_FAILED, f"{failed}: {described(error)} ({place})", meta_of(hook))


def _log_failure(key: str, message: str, error: BaseException, trace: TracebackType | None) -> None:
    # The caller's error matters more than the log: memory may be short, and the exception's own code may fail.
    with suppress(BaseException):
        _failures.log(logging.ERROR, key, message, (type(error), error, trace))


def hook_expired(hook: "Hook") -> None:
    """Log that an async hook is cancelled because its deadline has passed."""
    text = f"hook {hook.name} of bundle {hook.bundle} is cancelled: its deadline has passed"
    _failures.log(logging.WARNING, text, text)


def hook_passed_over(hook: "Hook", error: WorkerError) -> None:
    """Log that a hook with `on_error="continue"` failed and its object goes on untouched."""
    text = f'{error.message}; on_error is "continue": the object goes on untouched'
    _failures.log(logging.WARNING, f"continue {hook.bundle} {hook.name}", text)


def _wrong_return(hook: "Hook", error: WrongReturnError) -> WorkerError:
    """Return the error for a hook that returned a wrong value, and note in the cause where the hook is."""
    error.file, error.line = hook.file, hook.line
    message = f"hook {hook.name} of bundle {hook.bundle} {error} ({hook.file}:{hook.line})"
    _failures.log(logging.ERROR, message, message)
    return WorkerError(Status.HOOK_FAILED, message, meta_of(hook))


def return_ignored(hook: "Hook", reason: str) -> None:
    """Warn once per hook that part of its return value is ignored."""
    if _RETURN not in hook.silent_until:
        hook.silent_until[_RETURN] = math.inf
        _log.warning("hook %s of bundle %s (%s:%d) %s", hook.name, hook.bundle, hook.file, hook.line, reason)


def meta_of(hook: "Hook") -> dict[str, Any]:
    """Return the meta of an error frame: the bundle and name of the failed hook."""
    return {"bundle": hook.bundle, "hook": hook.name}


def _place(hook: "Hook", error: BaseException) -> str:
    file, line = innermost(traceback_of(error), hook.root) or (hook.file, hook.line)
    return f"{file}:{line}"
