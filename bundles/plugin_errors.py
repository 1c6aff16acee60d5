"""Describe exceptions of plugin code, whatever the exception's own code does."""

import os
import resource
from types import TracebackType
from typing import Final, cast

from tykpy.bundles.errors import BundleError
from tykpy.ipc.description import MAX_MESSAGE, MAX_NAME
from tykpy.ipc.text import access_needed, bounded

_TRACEBACK: Final = BaseException.__dict__["__traceback__"]
_NAME: Final = type.__dict__["__name__"]
_PROTOBUF_TYPE: Final = "bad argument type for built-in operation"
"""All that protobuf says when a field or map gets a value of another type."""


def bundle_failed(error: BaseException, root: str, file: str = "") -> BundleError:
    """Return the error of a bundle whose code failed while it was loaded, with the place in that code."""
    if issubclass(type(error), BundleError):
        known = cast(BundleError, error)
        return known if known.file else BundleError(known.message, file)
    try:
        return _bundle_error(error, root, file)
    except BaseException:  # noqa: BLE001 (the exception's own code)
        return BundleError("it raised an exception that cannot be looked at", file)


def _bundle_error(error: BaseException, root: str, file: str) -> BundleError:
    if isinstance(error, SyntaxError) and type(error.filename) is str and type(error.lineno) is int:
        return BundleError(f"{class_name(error)}: {error.msg}", error.filename, error.lineno)
    place = innermost(traceback_of(error), root)
    found, line = place if place else (file, 0)
    needs = access_needed(error) if isinstance(error, OSError) and error.filename is not None else ""
    return BundleError(described(error) + needs, found, line)


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return an exception's traceback."""
    # Not `error.__traceback__`: its class may define that attribute, or `__getattribute__`.
    trace: TracebackType | None = _TRACEBACK.__get__(error)
    return trace


def from_plugin(trace: TracebackType | None, root: str) -> TracebackType | None:
    """Return the traceback from the plugin's first frame on, or all of it if there is none."""
    frame = trace
    while frame is not None and not _is_below(frame, root):
        frame = frame.tb_next
    return frame or trace


def innermost(trace: TracebackType | None, root: str) -> tuple[str, int] | None:
    """Return file and line of the plugin's innermost frame."""
    place = None
    while trace is not None:
        if _is_below(trace, root):
            place = trace.tb_frame.f_code.co_filename, trace.tb_lineno or 0
        trace = trace.tb_next
    return place


def described(error: BaseException) -> str:
    """Return an exception as text of at most `MAX_MESSAGE` characters, whatever its own code does."""
    return bounded(_text_of(error), MAX_MESSAGE)


def class_name(value: object) -> str:
    """Return the name of a value's class, of at most `MAX_NAME` characters."""
    # Not `type(value).__name__`: a metaclass may define a property of that name.
    return bounded(_NAME.__get__(type(value)), MAX_NAME)


def _text_of(error: BaseException) -> str:
    name = class_name(error)
    try:
        if issubclass(type(error), SystemExit):
            code = cast(SystemExit, error).code
            return f"called sys.exit({'' if code is None else repr(code)})"
        text = bounded(str(error), MAX_MESSAGE)
    except BaseException as broken:  # noqa: BLE001 (the exception's own code; its error is reported instead)
        text = f"<its __str__ raised {class_name(broken)}>"
    if issubclass(type(error), MemoryError):
        text = text or _memory_limit()
    elif text == _PROTOBUF_TYPE:
        text += " (a value of the wrong type for the object: headers, parameters and metadata are str)"
    return f"{name}: {text}" if text else name


def _memory_limit() -> str:
    """Explain a MemoryError, which has no text of its own."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return "" if soft == resource.RLIM_INFINITY else f"more than the {soft} bytes of --limit-memory"


def _is_below(trace: TracebackType, root: str) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(root + os.sep)
