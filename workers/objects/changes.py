"""Compare two messages: what a hook changed in an object, field by field."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Change:
    """A field that a hook changed; `before` or `after` is None where it is absent."""

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
        values = " -> ".join(value for value in (self.before, self.after) if value is not None)
        return f"{self.sign} {self.path}: {values}"


def changes_of(before: Message, after: Message) -> list[Change]:
    """Return every field that differs, by its path, e.g. `request.set_headers['X-Id']`."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    paths = [*old, *(path for path in new if path not in old)]
    return [Change(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def _leaves(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every value in a message that is not itself a message."""
    for descriptor, value in message.ListFields():
        for path, item in _items(prefix + descriptor.name, descriptor, value):
            if isinstance(item, Message):
                yield from _leaves(item, f"{path}.")
            else:
                yield path, repr(item)


def _items(path: str, descriptor: Any, value: Any) -> Iterator[tuple[str, Any]]:
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        return ((f"{path}[{key!r}]", value[key]) for key in sorted(value))
    if descriptor.is_repeated:
        return ((f"{path}[{index}]", item) for index, item in enumerate(value))
    return iter([(path, value)])
