"""Log records of this process through a single writer, which plugins cannot silence through the logging module.

Until `open_log` is called, as in a plugin's own tests, records go to the logging module.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from tykpy.telemetry.names import annotated
from tykpy.telemetry.output import STDERR, Action, LogOutput
from tykpy.telemetry.records import ExceptionInfo, render

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
_time: Final = time.time


class Log:
    """Writes records under one name. Its methods are those of `logging.Logger`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def log(self, level: int, message: str, /, *args: object, exc_info: ExceptionInfo | None = None) -> None:
        """Write a record with the text `message % args`, unless `level` is below `--log-level`."""
        if _process.output is None:
            logging.getLogger(self.name).log(level, message, *args, exc_info=exc_info)
        elif level >= _process.level:
            text = message % args if args else message
            _process.write(_LEVELS.get(level, str(level)), self.name, text, exc_info, _time())

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
        self.shows_process = False
        self.names: Mapping[str, str] = {}
        """Explanations by MD5 (see `telemetry.names`)."""

    def write(self, level: str, name: str, text: str, error: ExceptionInfo | None, created: float) -> None:
        assert self.output is not None
        pid = _getpid() if self.shows_process else None
        self.output.write(render(created, level, pid, name, annotated(text, self.names), error))


_process: Final = _Process()
_log: Final = Log("tykpy.process")


def open_log(*, shows_process: bool) -> None:
    """Take over standard error, the root logger and uncaught exceptions. Call it once per process."""
    _process.shows_process = shows_process
    _process.output = LogOutput(_report_loss)
    logging.getLogger().handlers[:] = [LogHandler()]
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable
    atexit.register(close_log)


def configure_log(level: str, path: Path | None = None) -> None:
    """Set the lowest level to log, and optionally a file to log to instead of standard error. Raises OSError."""
    _process.level = getattr(logging, level.upper())
    logging.getLogger().setLevel(_process.level)
    _process.path = path
    if path is not None:
        _redirect(path)


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


def run_later(seconds: float, action: Action) -> None:
    """Run `action` in another thread after `seconds` or when the log is closed; never, if no log is open."""
    if _process.output is not None:
        _process.output.run_later(seconds, action)


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
            text, error = record.getMessage(), record.exc_info
            _process.write(record.levelname, record.name, text, _complete(error), record.created)
        except Exception:  # noqa: BLE001 (arguments that cannot be formatted, for example)
            self.handleError(record)


def _complete(
    error: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None,
) -> ExceptionInfo | None:
    return None if error is None or error[0] is None or error[1] is None else error


def _redirect(path: Path) -> None:
    assert _process.output is not None
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    _process.output.redirect(os.open(path, flags, FILE_MODE))


def _reopen() -> None:
    assert _process.path is not None
    try:
        _redirect(_process.path)
    except OSError as error:
        _log.error("the log file cannot be opened anew, the old one goes on: %s", error)


def _report_loss(lost: int, why: str) -> bytes:
    text = f"{lost:,} records of this log are lost: {why}"
    return render(_time(), "WARNING", _getpid() if _process.shows_process else None, _log.name, text)


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
