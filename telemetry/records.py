"""Render log records as lines that their content cannot forge.

The first line of a record starts with its time; every further line starts with `CONTINUATION`. Control characters in
the text are escaped, and the length of a record is bounded, wherever the text comes from.
"""

import re
import time
from traceback import format_exception
from types import TracebackType
from typing import Final, TypeAlias

CONTINUATION: Final = "  | "
"""Prefix of traceback lines. The first line of a record never starts with a space."""
MAX_MESSAGE: Final = 10_000
"""Longest logged message, in characters; a line that a plugin prints has up to 8,192 (workers/process/stdio.py)."""
MAX_TRACE_LINE: Final = 500
FIRST_LINES: Final = 10
LAST_LINES: Final = 50
"""Lines logged from the start and the end of a traceback. The last ones say what happened and where."""

ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

_UNSAFE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except the tab, line separators, characters that reorder text, and lone surrogates."""


def shorten(text: str, limit: int) -> str:
    """Cut text that is longer than `limit` characters, and append the number of missing ones."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit:,} more characters)"


def printable(text: str, limit: int) -> str:
    """Shorten text, then escape characters that could end a line or control a terminal."""
    return _UNSAFE.sub(_escape, shorten(text, limit))


def render(
    created: float, level: str, process: int | None, name: str, message: str, error: ExceptionInfo | None = None
) -> bytes:
    """Return the lines of one record. `created` is in seconds since the epoch, `process` is omitted if None."""
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created))
    pid = "" if process is None else f"[{process}] "
    head = f"{printable(level, 20):<7} {pid}{printable(name, 200)}"
    lines = [f"{clock},{int(created % 1 * 1000):03d} {head}: {printable(message, MAX_MESSAGE)}"]
    if error is not None:
        lines += [CONTINUATION + printable(line, MAX_TRACE_LINE) for line in _trace(error)]
    return ("\n".join(lines) + "\n").encode()


def _trace(error: ExceptionInfo) -> list[str]:
    try:
        lines = "".join(format_exception(*error)).rstrip("\n").split("\n")
    except BaseException as failure:  # noqa: BLE001 (the exception is a plugin's own class, which may do anything)
        return [f"{error[0].__name__} (its traceback cannot be shown: {type(failure).__name__})"]
    left_out = len(lines) - FIRST_LINES - LAST_LINES
    if left_out > 0:
        lines[FIRST_LINES:-LAST_LINES] = [f"... {left_out:,} lines left out ..."]
    return lines


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
