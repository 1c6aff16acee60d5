"""The standard streams of a worker: plugins read nothing, and what they print is logged line by line.

Descriptors 1 and 2 both lead to the broker's log, so C libraries and child processes write there as well; nothing a
plugin prints can reach the worker's channel.
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Iterable
from typing import Final, TextIO

from workers.importer import space_of

PLUGIN_LOGGER: Final = "tykpy.plugin"
MAX_LINE: Final = 8_192
"""Characters; a longer line is logged in pieces."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def take_over() -> TextIO:
    """Take the standard streams away from plugins, and return the stream that the worker's log is written to."""
    _redirect(os.devnull, os.O_RDONLY, _STDIN)
    os.dup2(_STDERR, _STDOUT, inheritable=True)
    log = os.fdopen(_STDERR, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stdin = open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 (open as long as the process runs)
    sys.stdout = LogStream(logging.INFO, _STDOUT)
    sys.stderr = LogStream(logging.WARNING, _STDERR)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    return log


class LogStream(io.TextIOBase):
    """A text stream whose lines are log messages, each with the bundle that wrote it. Every thread has its own line."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, level: int, descriptor: int) -> None:
        """Log at `level`; `descriptor` is what a child process gets when a plugin passes the stream to it."""
        self._level = level
        self._descriptor = descriptor
        self._logger = logging.getLogger(PLUGIN_LOGGER)
        self._thread = _Line()
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        """Log all lines that are complete now."""
        *lines, rest = (self._thread.text + text).split("\n")
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._thread.text = rest
        self._log(lines)
        return len(text)

    def flush(self) -> None:
        """Log the line that was begun."""
        begun, self._thread.text = self._thread.text, ""
        self._log([begun])

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for child processes."""
        return self._descriptor

    def isatty(self) -> bool:
        """Say no: nobody looks."""
        return False

    def close(self) -> None:
        """Stay open: the stream is the process's, not the plugin's."""
        self.flush()

    def _log(self, lines: Iterable[str]) -> None:
        if self._thread.is_logging:
            # A log handler that fails reports to sys.stderr: straight out, or it would go round for ever.
            os.write(_STDERR, "\n".join([*lines, ""]).encode(errors="backslashreplace"))
            return
        self._thread.is_logging = True
        try:
            space = space_of(sys._getframe())
            for line in filter(None, lines):
                if space is None:
                    self._logger.log(self._level, "%s", line)
                else:
                    self._logger.log(self._level, "%s: %s", space.bundle, line)
        finally:
            self._thread.is_logging = False


class _Line(threading.local):
    text = ""
    is_logging = False


class _Bytes(io.RawIOBase):
    """The binary side of a LogStream (`sys.stdout.buffer`)."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        self._stream.write(content.decode(errors="backslashreplace"))
        return len(content)

    def close(self) -> None:
        self._stream.flush()


def _redirect(path: str, flags: int, target: int) -> None:
    descriptor = os.open(path, flags)
    if descriptor != target:
        os.dup2(descriptor, target, inheritable=True)
        os.close(descriptor)
