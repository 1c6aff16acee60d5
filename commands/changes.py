"""What a hook changed: two messages compared field by field, as lines a person can read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs; `before` or `after` is None where it was or is absent."""

    path: str
    before: str | None
    after: str | None

    @property
    def sign(self) -> str:
        """`+` added, `-` removed, `~` changed."""
        if self.before is None:
            return "+"
        return "-" if self.after is None else "~"

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path}: {self.after}"
        if self.after is None:
            return f"- {self.path}: {self.before}"
        return f"~ {self.path}: {self.before} -> {self.after}"


def changes(before: Message, after: Message) -> list[Change]:
    """Every field that differs, by its path, e.g. `request.set_headers["X-Id"]`."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    paths = [*old, *(path for path in new if path not in old)]
    return [Change(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def _leaves(message: Message) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        yield from _field_leaves(field.name, field, value)


def _field_leaves(path: str, field: Any, value: Any) -> Iterator[tuple[str, str]]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key in sorted(value):
            yield from _value_leaves(f"{path}[{key!r}]", value[key])
    elif field.is_repeated:
        for index, item in enumerate(value):
            yield from _value_leaves(f"{path}[{index}]", item)
    else:
        yield from _value_leaves(path, value)


def _value_leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Message):
        for name, leaf in _leaves(value):
            yield f"{path}.{name}", leaf
    else:
        yield path, repr(value)


def as_json(message: Message) -> str:
    """The whole message as JSON, with the protobuf field names."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=2)
