"""Render log records for people and for programs, in forms that their content cannot forge.

For people, the first line of a record starts with its time, and every further line with `CONTINUATION`. For programs, a
record is one JSON object on one line. In both, control characters are escaped.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from json import JSONEncoder
from typing import Any, Final, TypeAlias

from tykpy.telemetry.records import (
    BROKER,
    MAX_LEVEL,
    MAX_MESSAGE,
    MAX_NAME,
    UNSAFE,
    Record,
    class_name,
    error_text,
    escape,
    printable,
    shorten,
    trace_lines,
)

AUTO: Final = "auto"
CONSOLE: Final = "console"
JSON: Final = "json"
FORMATS: Final = (AUTO, CONSOLE, JSON)
CONTINUATION: Final = "  | "
"""Prefix of traceback lines. The first line of a record never starts with a space."""
PLUGIN_LOGGER: Final = "tykpy.plugin"
"""What plugins print, or log with `TykGateway.log`."""
_OWN: Final = "tykpy."
"""Prefix of our own loggers, whose messages name bundle and hook where it matters."""

_COLOURS: Final = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_PLAIN: Final = "\x1b[0m"

Renderer: TypeAlias = Callable[[Record], bytes]


def renderer(name: str, descriptor: int) -> Renderer:
    """Return the renderer of a log that is written to this descriptor, for one of `FORMATS`."""
    is_terminal = os.isatty(descriptor)
    if name == JSON or (name == AUTO and not is_terminal):
        return render_json
    is_coloured = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return partial(render_console, colours=_COLOURS if is_coloured else {})


def render_console(record: Record, colours: Mapping[str, str] = {}) -> bytes:
    """Return a record as lines for people; `colours`: escape sequences by level."""
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    level = f"{printable(record.level, MAX_LEVEL):<7}"
    if colour := colours.get(record.level):
        level = colour + level + _PLAIN
    pid = "" if record.source.role == BROKER else f"[{record.pid}] "
    message = printable(_origin(record) + record.message, MAX_MESSAGE)
    lines = [
        f"{clock},{_milliseconds(record.created):03d} {level} {pid}{printable(record.name, MAX_NAME)}: {message}",
        *(CONTINUATION + escape(line) for line in trace_lines(record)),
    ]
    return ("\n".join(lines) + "\n").encode()


def render_json(record: Record) -> bytes:
    """Return a record as one line with a JSON object."""
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    found: dict[str, Any] = {
        "time": f"{clock}.{_milliseconds(record.created):03d}Z",
        "level": shorten(record.level, MAX_LEVEL).lower(),
        "logger": shorten(record.name, MAX_NAME),
        "message": shorten(record.message, MAX_MESSAGE),
        "process": record.source.role,
        "pid": record.pid,
    }
    if record.source.worker is not None:
        found["worker"] = record.source.worker
    found.update(record.fields)
    if record.error is not None:
        found["error_type"] = shorten(class_name(record.error[0]), MAX_NAME)
        found["error_message"] = error_text(record.error[1])
    if record.error is not None or record.stack:
        found["stack"] = "\n".join(trace_lines(record))
    if record.extra:
        found["extra"] = record.extra
    return (UNSAFE.sub(_escape, _encode(found)) + "\n").encode()


_encode: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _milliseconds(created: float) -> int:
    return int(created % 1 * 1000)


def _origin(record: Record) -> str:
    """Return which bundle and hook a plugin's record comes from."""
    bundle, hook = record.fields.get("bundle"), record.fields.get("hook")
    if bundle is None or (record.name.startswith(_OWN) and record.name != PLUGIN_LOGGER):
        return ""
    return f"{bundle}: " if hook is None else f"{bundle}/{hook}: "


def _escape(found: re.Match[str]) -> str:
    # The encoder has escaped those below U+0020; these are characters of their own.
    return f"\\u{ord(found[0]):04x}"
