"""The record type of the log, and the bounds of its text: a record is short wherever its text comes from."""

import re
from collections.abc import Mapping, Sequence
from traceback import format_exception
from types import MappingProxyType, TracebackType
from typing import Final, NamedTuple, TypeAlias

MAX_MESSAGE: Final = 10_000
"""Longest logged message, in characters; a line that a plugin prints has up to 8,192 (workers/process/stdio.py)."""
MAX_LEVEL: Final = 20
MAX_NAME: Final = 200
"""Longest names of levels and loggers, in characters: plugins choose both."""
MAX_TRACE_LINE: Final = 500
FIRST_LINES: Final = 10
LAST_LINES: Final = 50
"""Lines logged from the start and the end of a traceback. The last ones say what happened and where."""
MAX_LINKED: Final = 100
"""Exceptions that are shown in full: an error, its causes, and those of a group. More of them take long to format."""
MAX_FRAMES: Final = 1_000
"""Innermost frames of a traceback that are looked at, whatever `sys.tracebacklimit` a plugin has set."""
BROKER: Final = "broker"

ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
Fields: TypeAlias = Mapping[str, object]
"""Fields of a record besides its message: texts and numbers, bounded by the code that makes the record."""
NO_FIELDS: Final[Fields] = MappingProxyType({})

UNSAFE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except the tab, line separators, characters that reorder text, and lone surrogates."""


class Source(NamedTuple):
    """The process that a record comes from."""

    role: str = BROKER
    """`broker` or `worker`."""
    worker: int | None = None
    """The worker's number."""


class Record(NamedTuple):
    """One record, before it is text."""

    created: float
    """Seconds since the epoch."""
    level: str
    name: str
    """The logger's."""
    message: str
    pid: int
    source: Source = Source()
    error: ExceptionInfo | None = None
    stack: Sequence[str] = ()
    """Lines of a stack, if there is no error."""
    fields: Fields = NO_FIELDS
    """The dispatch that the record is about."""
    extra: Fields = NO_FIELDS
    """What a plugin has passed to the logging module as `extra`."""


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun: `1 call`, `2 calls`. `several` is the plural that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def shorten(text: str, limit: int) -> str:
    """Cut text that is longer than `limit` characters, and append the number of missing ones."""
    return text if len(text) <= limit else f"{text[:limit]}... ({counted(len(text) - limit, 'more character')})"


def printable(text: str, limit: int) -> str:
    """Shorten text, then escape characters that could end a line or control a terminal."""
    return escape(shorten(text, limit))


def escape(text: str) -> str:
    """Escape characters that could end a line or control a terminal."""
    return UNSAFE.sub(_escaped, text)


def trace_lines(record: Record) -> list[str]:
    """Return the lines of the record's traceback or stack, the middle of a long one left out."""
    lines = list(record.stack) if record.error is None else _format(record.error)
    left_out = len(lines) - FIRST_LINES - LAST_LINES
    if left_out > 0:
        lines[FIRST_LINES:-LAST_LINES] = [f"... {counted(left_out, 'line')} left out ..."]
    return [shorten(line, MAX_TRACE_LINE) for line in lines]


def class_name(kind: type[BaseException]) -> str:
    """Return the name of a class, whatever its metaclass makes of that name."""
    return str(type.__dict__["__name__"].__get__(kind))


def error_text(error: BaseException) -> str:
    """Return the text of an exception, whose class may be a plugin's own."""
    try:
        # Not of a class that a plugin may have made.
        return shorten(str.__getitem__(str(error), slice(None)), MAX_TRACE_LINE)
    except BaseException as failure:  # noqa: BLE001 (its class may do anything)
        return f"(its text cannot be shown: {class_name(type(failure))})"


def _format(error: ExceptionInfo) -> list[str]:
    kind, value, trace = error
    why = f"it has more than {MAX_LINKED} causes or members"
    try:
        if not _links_many(value):
            return "".join(format_exception(*error, limit=-MAX_FRAMES)).rstrip("\n").split("\n")
    except BaseException as failure:  # noqa: BLE001 (the class is a plugin's own, or it has patched what we call)
        why = class_name(type(failure))
    text = f"{class_name(kind)}: {error_text(value)} (its traceback cannot be shown in full: {why})"
    return [*_places(trace), text]


def _links_many(error: BaseException) -> bool:
    """Return whether an exception has more than `MAX_LINKED` causes, contexts and members of groups."""
    waiting, seen = [error], {id(error)}
    while waiting and len(seen) <= MAX_LINKED:
        one = waiting.pop()
        linked = [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            if len(one.exceptions) > MAX_LINKED:
                return True
            linked += one.exceptions
        new = [other for other in linked if other is not None and id(other) not in seen]
        seen.update(map(id, new))
        waiting += new
    return len(seen) > MAX_LINKED


def _places(trace: TracebackType | None) -> list[str]:
    """Return a line for each frame of a traceback, without its source."""
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}')
        trace = trace.tb_next
    return places


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
