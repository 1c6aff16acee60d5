"""Log records of this process through a single writer, which plugins cannot silence through the logging module.

Until `open_log` is called, as in a plugin's own tests, records go to the logging module.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from tykpy.telemetry.extra import extra_of
from tykpy.telemetry.names import annotated
from tykpy.telemetry.output import STDERR, Action, LogOutput
from tykpy.telemetry.records import NO_FIELDS, ExceptionInfo, Fields, Record, Source, counted
from tykpy.telemetry.renderers import AUTO, Renderer, renderer

CLOSE_SECONDS: Final = 1.0
"""Longest time that the end of the process waits for the reader of the log."""
FILE_MODE: Final = 0o640

_LEVELS: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}
_Record: Final = logging.LogRecord
_getpid: Final = os.getpid


class Log:
    """Writes records under one name. Its methods are those of `logging.Logger`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def log(
        self,
        level: int,
        message: str,
        /,
        *args: object,
        exc_info: ExceptionInfo | None = None,
        fields: Fields | None = None,
        stack: Sequence[str] = (),
    ) -> None:
        """Write a record with the text `message % args`, unless `level` is below `--log-level`.

        `fields`: the dispatch that it is about, if that is not the running one; `stack`: lines of a stack.
        """
        if _process.output is None:
            logging.getLogger(self.name).log(level, message, *args, exc_info=exc_info)
        elif level >= _process.level:
            text = message % args if args else message
            if fields is None:
                fields = _process.running_fields()
            _process.write(
                _record(_process.time(), _LEVELS.get(level, str(level)), self.name, text, exc_info, fields, stack)
            )

    def debug(self, message: str, *args: object) -> None:
        """Write a record at level debug."""
        self.log(logging.DEBUG, message, *args)

    def info(self, message: str, *args: object) -> None:
        """Write a record at level info."""
        self.log(logging.INFO, message, *args)

    def warning(self, message: str, *args: object) -> None:
        """Write a record at level warning."""
        self.log(logging.WARNING, message, *args)

    def error(self, message: str, *args: object, exc_info: ExceptionInfo | None = None) -> None:
        """Write a record at level error."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info)

    def exception(self, message: str, *args: object) -> None:
        """Write a record at level error, with the traceback of the exception that is being handled."""
        kind, error, trace = sys.exc_info()
        self.error(message, *args, exc_info=None if kind is None or error is None else (kind, error, trace))


class _Process:
    """State that all loggers of this process share."""

    def __init__(self) -> None:
        self.output: LogOutput | None = None
        self.level = logging.INFO
        self.path: Path | None = None
        self.source = Source()
        self.render: Renderer = renderer(AUTO, STDERR)
        self.running_fields: Callable[[], Fields] = lambda: NO_FIELDS
        self.time = time.time
        """No name of the module: libraries that freeze time replace those (freezegun)."""
        self.names: Mapping[str, str] = {}
        """Explanations by MD5 (see `telemetry.names`)."""

    def write(self, record: Record) -> None:
        assert self.output is not None
        self.output.write(self.render(record))


_process: Final = _Process()
_log: Final = Log("tykpy.process")


def _record(
    created: float,
    level: str,
    name: str,
    text: str,
    error: ExceptionInfo | None = None,
    fields: Fields = NO_FIELDS,
    stack: Sequence[str] = (),
    extra: Fields = NO_FIELDS,
) -> Record:
    message = annotated(text, _process.names)
    return Record(created, level, name, message, _getpid(), _process.source, error, stack, fields, extra)


def open_log(source: Source = _process.source) -> None:
    """Take over standard error, the root logger and uncaught exceptions. Call it once per process."""
    _process.source = source
    _process.output = LogOutput(_report_loss)
    _process.render = renderer(AUTO, STDERR)
    logging.getLogger().handlers[:] = [LogHandler()]
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable
    atexit.register(close_log)


def configure_log(level: str, form: str = AUTO, path: Path | None = None) -> None:
    """Set the lowest level to log, the format, and optionally a file to log to instead of standard error.

    Raises OSError.
    """
    set_level(level)
    _process.path = path
    if path is not None:
        _redirect(path)
    _process.render = renderer(form, STDERR)


def set_level(level: str) -> None:
    """Set the lowest level to log: that of our own log, and of the root logger."""
    _process.level = getattr(logging, level.upper())
    logging.getLogger().setLevel(_process.level)


def level_name() -> str:
    """Return the lowest level that is logged, in lower case."""
    return _LEVELS[_process.level].lower()


def attribute_records(running_fields: Callable[[], Fields]) -> None:
    """Have each record carry the fields of what runs where it is made. The function must not raise."""
    _process.running_fields = running_fields


def explain_in_log(names: Mapping[str, str]) -> None:
    """Explain these MD5s wherever they appear in log messages (see `telemetry.names`)."""
    _process.names = names


def reopen_log() -> None:
    """Reopen the log file after it was renamed; do nothing if there is none. Can be called at any time."""
    if _process.output is not None and _process.path is not None:
        _process.output.run(_reopen)


def close_log() -> None:
    """Write the queued records, for at most `CLOSE_SECONDS`."""
    if _process.output is not None:
        _process.output.close(CLOSE_SECONDS)


def lost_records() -> int:
    """Return how many records of this process were lost so far."""
    return 0 if _process.output is None else _process.output.lost


def show_lost_records(show: Callable[[int], object]) -> None:
    """Have `show` called with the number of records lost so far whenever it changes, in any thread."""
    if _process.output is not None:
        _process.output.when_lost = show


def run_later(seconds: float, action: Action) -> None:
    """Run `action` in another thread after `seconds` or when the log is closed; never, if no log is open."""
    if _process.output is not None:
        _process.output.run_later(seconds, action)


def restore_streams() -> None:
    """Open standard output and standard error again if they were closed."""
    if _process.output is not None:
        _process.output.restore_streams()


def dump_descriptor() -> int:
    """Return the descriptor for code that writes to the log directly."""
    return STDERR if _process.output is None else _process.output.dump_descriptor


class LogHandler(logging.Handler):
    """Handler for records that libraries and plugins log with the logging module; it has no lock to wait for."""

    def createLock(self) -> None:  # noqa: N802 (logging's name)
        """Create no lock."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write the record unless a filter rejects it."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, _Record) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            text, error = record.getMessage(), _complete(record.exc_info)
            fields, extra = _process.running_fields(), extra_of(record)
            _process.write(_record(_process.time(), record.levelname, record.name, text, error, fields, extra=extra))
        except Exception:  # noqa: BLE001 (arguments that cannot be formatted, for example)
            self.handleError(record)


def _complete(
    error: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None,
) -> ExceptionInfo | None:
    return None if error is None or error[0] is None or error[1] is None else error


def _redirect(path: Path) -> None:
    assert _process.output is not None
    # A FIFO that nobody reads is an error, and not a wait.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    descriptor = os.open(path, flags, FILE_MODE)
    os.set_blocking(descriptor, True)
    _process.output.redirect(descriptor)


def _reopen() -> None:
    assert _process.path is not None
    try:
        _redirect(_process.path)
    except OSError as error:
        _log.error("the log file cannot be opened anew, the old one goes on: %s", error)


def _report_loss(lost: int, why: str) -> bytes:
    text = f"{counted(lost, 'record of this log is', 'records of this log are')} lost: {why}"
    return _process.render(_record(_process.time(), "WARNING", _log.name, text))


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.error("the process ends with an exception", exc_info=(kind, error, trace))


def _on_thread_exception(caught: threading.ExceptHookArgs) -> None:
    if issubclass(caught.exc_type, SystemExit) or caught.exc_value is None:
        return
    name = caught.thread.name if caught.thread is not None else "unknown"
    _log.error(
        "thread %s ends with an exception", name, exc_info=(caught.exc_type, caught.exc_value, caught.exc_traceback)
    )


def _on_unraisable(caught: "sys.UnraisableHookArgs") -> None:
    if caught.exc_value is None:
        return
    where = getattr(caught.object, "__qualname__", None) or type(caught.object).__qualname__
    text = caught.err_msg or "Exception ignored in"
    _log.error("%s: %s", text, where, exc_info=(caught.exc_type, caught.exc_value, caught.exc_traceback))
