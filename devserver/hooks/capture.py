"""Collect what hooks print and log, call by call."""

import io
import logging
import sys
from contextvars import ContextVar
from typing import Final, TextIO

from tykpy.devserver.hooks.contract import Printed

MAX_LINES: Final = 1_000
"""Lines that are kept of one call."""
MAX_LINE: Final = 8_192
"""Longest line, in characters."""
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
_WORKER_LOGGER: Final = "tykpy.worker"


class Output:
    """The lines of one call."""

    def __init__(self) -> None:
        self._lines: list[Printed] = []
        self._begun: dict[str, str] = {}

    def write(self, source: str, text: str) -> None:
        """Add text; a line is complete with its end."""
        *lines, self._begun[source] = (self._begun.get(source, "") + text).split("\n")
        for line in lines:
            self.add(source, line)

    def add(self, source: str, line: str) -> None:
        """Add a line."""
        if len(self._lines) < MAX_LINES:
            self._lines.append(Printed(source, line[:MAX_LINE]))
        elif len(self._lines) == MAX_LINES:
            self._lines.append(Printed(STDERR, f"more than {MAX_LINES} lines; the rest is left out"))

    def finish(self) -> tuple[Printed, ...]:
        """Return all lines, unfinished ones too."""
        for source, rest in self._begun.items():
            if rest:
                self.add(source, rest)
        self._begun.clear()
        return tuple(self._lines)


CURRENT: Final[ContextVar[Output | None]] = ContextVar("CURRENT", default=None)
"""Where the running call's lines go. Tasks that it starts inherit it; threads do not, and print to the real streams."""


class CapturedStream(io.TextIOBase):
    """A standard stream whose lines go to the running call."""

    def __init__(self, source: str, real: TextIO) -> None:
        self._source = source
        self.real = real
        self.buffer = real.buffer

    def write(self, text: str) -> int:
        """Write text."""
        output = CURRENT.get()
        if output is None:
            return self.real.write(text)
        output.write(self._source, text)
        return len(text)

    def flush(self) -> None:
        """Flush the real stream."""
        self.real.flush()

    def fileno(self) -> int:
        """Return the real stream's descriptor, for child processes."""
        return self.real.fileno()

    def isatty(self) -> bool:
        """Whether the real stream is a terminal."""
        return self.real.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True


class CaptureHandler(logging.Handler):
    """Adds log records to the running call. What is shown in another form is left out: failures of hooks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record."""
        output = CURRENT.get()
        if output is None or (record.name == _WORKER_LOGGER and record.levelno >= logging.ERROR):
            return
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 (the plugin's own format and arguments)
            text = f"a record of {record.name} cannot be formatted: {type(error).__name__}: {error}"
        for line in text.splitlines() or [""]:
            output.add(record.levelname.lower(), line)


class Capture:
    """Takes the standard streams and the log of this process from the first `start` to the last `stop`."""

    def __init__(self) -> None:
        self._handler = CaptureHandler()
        self._starts = 0
        self._streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self._level = logging.NOTSET

    def start(self) -> None:
        """Take them."""
        self._starts += 1
        if self._starts > 1:
            return
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = CapturedStream(STDOUT, sys.stdout), CapturedStream(STDERR, sys.stderr)
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self._handler)
        root.setLevel(min(root.level, logging.INFO))

    def stop(self) -> None:
        """Give them back."""
        self._starts -= 1
        if self._starts:
            return
        sys.stdout, sys.stderr = self._streams
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level)
