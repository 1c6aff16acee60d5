"""The standard streams of a worker: plugins read nothing, and what they print is logged line by line.

Descriptors 1 and 2 both lead to the broker's log, so C libraries and child processes write there as well. Nothing that
a plugin prints can reach the worker's channel.
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

from tykpy.bundles.imports.importer import space_of
from tykpy.telemetry.log import Log
from tykpy.telemetry.output import STDERR, STDOUT
from tykpy.telemetry.renderers import PLUGIN_LOGGER

MAX_LINE: Final = 8_192
"""Longest line, in characters; a longer one is logged in pieces."""

STDIN: Final = 0
NO_DEBUGGER: Final = (
    "breakpoint() has no terminal in a broker's worker; debug hooks with `tykpy dev` (docs/dev.md), "
    "or set PYTHONBREAKPOINT=0 to pass over it"
)


def take_over() -> None:
    """Take the standard streams away from plugins."""
    _redirect(os.devnull, os.O_RDONLY, STDIN)
    os.dup2(STDERR, STDOUT, inheritable=True)
    sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 (open as long as the process runs)
    sys.stdout = LogStream(logging.INFO, STDOUT)
    sys.stderr = LogStream(logging.WARNING, STDERR)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    sys.__class__ = _Sys
    sys.breakpointhook = _refuse_breakpoint


class LogStream(io.TextIOBase):
    """A text stream whose lines are log messages. Every thread has its own line."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, level: int, descriptor: int) -> None:
        """Log at `level`; `descriptor` is what a child process gets when a plugin passes the stream to it."""
        self.replacements: dict[str, Any] = {}
        """The replacements of this stream by bundles, by the bundles' prefixes."""
        self._level = level
        self._descriptor = descriptor
        self._log = Log(PLUGIN_LOGGER)
        self._thread = _Line()
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        """Log all lines that are complete now."""
        if self.replacements and (other := self._replacement()) is not None:
            return self._write_to(other, text)
        *lines, rest = (self._thread.text + text).split("\n")
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._thread.text = rest
        self._write_lines(lines)
        return len(text)

    def flush(self) -> None:
        """Log the unfinished line."""
        if self.replacements and (other := self._replacement()) is not None:
            other.flush()
        begun, self._thread.text = self._thread.text, ""
        self._write_lines([begun])

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for child processes."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return False: the output goes to a log."""
        return False

    def close(self) -> None:
        """Do nothing: the stream belongs to the process, not to the plugin."""
        self.flush()

    def _write_lines(self, lines: Iterable[str]) -> None:
        for line in filter(None, lines):
            self._log.log(self._level, "%s", line)

    def _replacement(self) -> Any:
        return None if self._thread.is_replaced else self.replacements.get(_prefix_of_caller())

    def _write_to(self, replacement: Any, text: str) -> int:
        # A replacement may pass its text on to this stream.
        self._thread.is_replaced = True
        try:
            written: int = replacement.write(text)
        finally:
            self._thread.is_replaced = False
        return written


class PluginLog:
    """Takes what plugins log with `TykGateway.log`."""

    def __init__(self) -> None:
        self._log = Log(PLUGIN_LOGGER)

    def log(self, message: str, level: int) -> None:
        """Write one record."""
        self._log.log(level, "%s", message)


class _Line(threading.local):
    text = ""
    is_replaced = False


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


def _replaceable(name: str) -> property:
    """A stream of `sys` that a bundle can replace for its own code only; `print` finds ours in the module."""

    def find(module: ModuleType) -> Any:
        stream = vars(module)[name]
        return stream.replacements.get(_prefix_of_caller(), stream) if stream.replacements else stream

    def replace(module: ModuleType, replacement: Any) -> None:
        stream = vars(module)[name]
        if replacement is stream:
            stream.replacements.pop(_prefix_of_caller(), None)
        else:
            stream.replacements[_prefix_of_caller()] = replacement

    return property(find, replace)


class _Sys(ModuleType):
    stdout = _replaceable("stdout")
    stderr = _replaceable("stderr")


def _prefix_of_caller() -> str:
    space = space_of(sys._getframe(1))
    return "" if space is None else space.prefix


def _refuse_breakpoint(*_args: object, **_options: object) -> None:
    """Replace `breakpoint()`: a debugger would read from nowhere, and keep the calls of a gateway waiting.

    `PYTHONBREAKPOINT=0` turns it into nothing, as everywhere.
    """
    if os.environ.get("PYTHONBREAKPOINT") != "0":
        raise RuntimeError(NO_DEBUGGER)


def _redirect(path: str, flags: int, target: int) -> None:
    descriptor = os.open(path, flags)
    if descriptor != target:
        os.dup2(descriptor, target, inheritable=True)
        os.close(descriptor)
