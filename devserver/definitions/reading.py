"""Read JSON files into typed structures; an error names file and line.

`null` counts as absent, and unknown fields are ignored, as in the gateway.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tykpy.devserver.errors import DefinitionError
from tykpy.ipc.regular_file import read_regular
from tykpy.ipc.text import why_unread

MAX_FILE: Final = 16 * 1024 * 1024
"""Bytes of a file that is read; a large OAS document has a tenth of that."""
_PLACE: Final = re.compile(r"(.*) - at `(?:key in )?\$(.*)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_SPACE: Final = re.compile(r"\s*")
_VERBATIM: Final = frozenset({"config_data", "value"})
"""Where a classic and an OAS definition have the data for hooks."""
_decode: Final = json.JSONDecoder().raw_decode

T = TypeVar("T")


def read_text(path: Path) -> str:
    """Return the text of a file. Raises DefinitionError."""
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise DefinitionError(f"{size} bytes are too many (limit {MAX_FILE})", str(path))
        return read_regular(path).decode("utf-8-sig")
    except OSError as error:
        raise DefinitionError(f"cannot be read: {why_unread(error)}", str(path)) from error
    except UnicodeDecodeError as error:
        raise DefinitionError(f"not UTF-8: {error.reason} at byte {error.start}", str(path)) from error


class JsonFile:
    """A JSON file that has been read: its value, and the lines of its parts."""

    def __init__(self, text: str, name: str) -> None:
        """`name` is that of the file, in errors. Raises DefinitionError if the text is not a JSON object."""
        self.name = name
        self._text = text
        try:
            self.value: dict[str, Any] = _without_nulls(json.loads(text))
        except json.JSONDecodeError as error:
            raise DefinitionError(f"not JSON: {error.msg} (column {error.colno})", name, error.lineno) from error
        except (RecursionError, ValueError) as error:
            raise DefinitionError(f"not JSON that can be read: {error}", name) from error
        if not isinstance(self.value, dict):
            raise DefinitionError("expected a JSON object", name, 1)

    @classmethod
    def read(cls, path: Path) -> "JsonFile":
        """Read a file. Raises DefinitionError."""
        return cls(read_text(path), str(path))

    def convert(self, kind: type[T], place: tuple[str | int, ...] = ()) -> T:
        """Return the part at `place` as `kind`. Raises DefinitionError with the line of what does not fit."""
        value: Any = self.value
        for step in place:
            value = value.get(step, {})
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            found = _PLACE.fullmatch(str(error))
            reason, steps = found.groups() if found else (str(error), "")
            path = (*place, *(int(index) if index.isdigit() else key or index for key, index in _STEP.findall(steps)))
            raise self.wrong(path, reason) from error

    def wrong(self, place: tuple[str | int, ...], reason: str) -> DefinitionError:
        """Return the error for a part of the file."""
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
        return DefinitionError(f"{path}: {reason}" if path else reason, self.name, self.line(place))

    def line(self, place: tuple[str | int, ...]) -> int:
        """Return the line of a part, or of the closest part around it."""
        position = _position(self._text, _skip(self._text, 0), place)
        return self._text.count("\n", 0, position) + 1


def _without_nulls(value: Any) -> Any:
    """Leave out members that are null, which Go reads as absent; but not from what hooks get as it is written."""
    if isinstance(value, dict):
        return {
            key: item if key in _VERBATIM and isinstance(item, dict) else _without_nulls(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _position(text: str, start: int, place: tuple[str | int, ...]) -> int:
    """Return where the part at `place` of the value at `start` begins. The text is valid JSON."""
    if not place or text[start] not in "{[":
        return start
    for step, key_at, value_at in _members(text, start):
        if step == place[0]:
            return _position(text, value_at, place[1:]) if place[1:] else key_at
    return start


def _members(text: str, start: int) -> Iterator[tuple[str | int, int, int]]:
    """Yield key or index, its position, and that of its value, for each member of the object or list at `start`."""
    is_object, index, position = text[start] == "{", 0, _skip(text, start + 1)
    while text[position] not in "}]":
        step: str | int = index
        key_at = position
        if is_object:
            step, position = _decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
        yield step, key_at, position
        position = _skip(text, _decode(text, position)[1])
        position = _skip(text, position + 1) if text[position] == "," else position
        index += 1
