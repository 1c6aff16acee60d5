"""Turns what a plugin raises into an error that says what, in which hook and line; the traceback is for the log."""

import logging
import math
import os
import traceback
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from tykpy.bundles.errors import EVENT_META, BundleError, WorkerError, WrongReturnError
from tykpy.ipc.description import MAX_MESSAGE
from tykpy.ipc.frame import Status, pack_error
from tykpy.ipc.text import access_needed, bounded
from tykpy.telemetry.log import Log
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.workers.process import forked, rlimits

if TYPE_CHECKING:
    from tykpy.bundles.hook import Hook

_RETURN: Final = "return"
_log: Final = Log("tykpy.worker")
_failures: Final = QuietLog(_log)


def error_frame(error: BaseException) -> bytes:
    """Return the error frame for whatever ended a call; log what is not logged yet."""
    if isinstance(error, WorkerError):
        # What a hook did wrong is logged where it happened, with its traceback; unknown event handlers by the broker.
        if error.status is not Status.HOOK_FAILED and EVENT_META not in (error.meta or {}):
            message = f"{error.status.name}: {error.message}"
            _failures.log(logging.WARNING, message, message)
        return pack_error(error.status, error.message, error.meta)
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)
    _log_failure(_class_name(error), "a fault of tykpy itself", error, error.__traceback__)
    return pack_error(Status.INTERNAL, f"tykpy failed inside a worker: {described(error)}")


def hook_failed(hook: "Hook", error: BaseException) -> WorkerError:
    """Log the traceback, from the plugin's first frame on, and return the dispatch's error, whatever was raised."""
    if forked.is_child:
        forked.end(error)
    if type(error) is WrongReturnError:
        return _wrong_return(hook, str(error))
    own = from_plugin(error.__traceback__, hook.root)
    if issubclass(type(error), MemoryError):
        # What the hook had collected goes first, or there is none left to say so with.
        traceback.clear_frames(own)
    place = _place(hook, error)
    failed = f"hook {hook.name} of bundle {hook.bundle} failed"
    # Failures of one class at one line are repetitions, whatever values their messages have.
    _log_failure(f"{_class_name(error)} {place} {hook.name}", failed, error, own)
    return WorkerError(Status.HOOK_FAILED, f"{failed}: {described(error)} ({place})", meta_of(hook))


def _log_failure(key: str, message: str, error: BaseException, trace: TracebackType | None) -> None:
    # The caller's error matters more than the log: there may be no memory, and the exception's own code may fail.
    with suppress(BaseException):
        _failures.log(logging.ERROR, key, message, (type(error), error, trace))


def hook_passed_over(hook: "Hook", error: WorkerError) -> None:
    """Say in the log that a hook with `on_error="continue"` failed and its object goes on untouched."""
    text = f'{error.message}; on_error is "continue": the object goes on untouched'
    _failures.log(logging.WARNING, f"continue {hook.bundle} {hook.name}", text)


def _wrong_return(hook: "Hook", reason: str) -> WorkerError:
    """Return the error for a hook that returned something else than it must."""
    message = f"hook {hook.name} of bundle {hook.bundle} {reason} ({hook.file}:{hook.line})"
    _failures.log(logging.ERROR, message, message)
    return WorkerError(Status.HOOK_FAILED, message, meta_of(hook))


def return_ignored(hook: "Hook", reason: str) -> None:
    """Warn once per hook that some of what it returns counts for nothing."""
    if _RETURN not in hook.silent_until:
        hook.silent_until[_RETURN] = math.inf
        _log.warning("hook %s of bundle %s (%s:%d) %s", hook.name, hook.bundle, hook.file, hook.line, reason)


def bundle_failed(error: BaseException, root: str, file: str = "") -> BundleError:
    """Say where a bundle's own code failed while it was loaded, whatever it raised."""
    if issubclass(type(error), BundleError):
        return cast(BundleError, error)
    try:
        return _bundle_error(error, root, file)
    except BaseException:  # noqa: BLE001 (the exception's own code, when it is looked at)
        return BundleError("it raised an exception that cannot be looked at", file)


def _bundle_error(error: BaseException, root: str, file: str) -> BundleError:
    if isinstance(error, SyntaxError) and type(error.filename) is str and type(error.lineno) is int:
        return BundleError(f"{_class_name(error)}: {error.msg}", error.filename, error.lineno)
    place = innermost(error.__traceback__, root)
    found, line = place if place else (file, 0)
    needs = access_needed(error) if isinstance(error, OSError) and error.filename is not None else ""
    return BundleError(described(error) + needs, found, line)


def meta_of(hook: "Hook") -> dict[str, Any]:
    """Return what an error frame says about the hook that failed."""
    return {"bundle": hook.bundle, "hook": hook.name}


def from_plugin(trace: TracebackType | None, root: str) -> TracebackType | None:
    """Return the traceback from the plugin's first frame on; all of it where there is none."""
    frame = trace
    while frame is not None and not _is_below(frame, root):
        frame = frame.tb_next
    return frame or trace


def innermost(trace: TracebackType | None, root: str) -> tuple[str, int] | None:
    """Return file and line of the innermost frame that is the plugin's own."""
    place = None
    while trace is not None:
        if _is_below(trace, root):
            place = trace.tb_frame.f_code.co_filename, trace.tb_lineno or 0
        trace = trace.tb_next
    return place


def _place(hook: "Hook", error: BaseException) -> str:
    file, line = innermost(error.__traceback__, hook.root) or (hook.file, hook.line)
    return f"{file}:{line}"


def described(error: BaseException) -> str:
    """Return an exception as text, whatever its own code does; no longer than `MAX_MESSAGE`."""
    return bounded(_text_of(error), MAX_MESSAGE)


def _text_of(error: BaseException) -> str:
    name = _class_name(error)
    try:
        if isinstance(error, SystemExit):
            return f"called sys.exit({'' if error.code is None else repr(error.code)})"
        text = bounded(str(error), MAX_MESSAGE)
    except BaseException as broken:  # noqa: BLE001 (the exception's own code; what it raised is told instead)
        text = f"<its __str__ raised {_class_name(broken)}>"
    if issubclass(type(error), MemoryError):
        text = text or rlimits.memory_words()
    return f"{name}: {text}" if text else name


def _class_name(error: BaseException) -> str:
    # Not `type(error).__name__`: a metaclass may have a property of that name.
    return str(type.__dict__["__name__"].__get__(type(error)))


def _is_below(trace: TracebackType, root: str) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(root + os.sep)
