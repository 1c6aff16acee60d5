"""What `tyk.store` asks of a storage: commands as data, so that a test or a recording can look at them and answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class Get:
    """Answered by a list: each key's value, or None."""

    name: ClassVar[str] = "get"
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Set:
    """Keep values for `ttl` seconds (0: for ever); answered by None."""

    name: ClassVar[str] = "set"
    values: Mapping[str, bytes]
    ttl: float = 0


@dataclass(frozen=True, slots=True)
class SetIfAbsent:
    """Keep a value unless the key has one; answered by whether it was kept."""

    name: ClassVar[str] = "set_if_absent"
    key: str
    value: bytes
    ttl: float = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Answered by the number of keys that had a value."""

    name: ClassVar[str] = "delete"
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Increment:
    """Add to an integer, which is 0 and expires after `ttl` seconds if there is none; answered by the sum.

    Raises StoreValueError if there is another value, or the sum has more than 64 bits.
    """

    key: str
    amount: int
    ttl: float = 0
    name: ClassVar[str] = "incr"


@dataclass(frozen=True, slots=True)
class Expire:
    """Let a value expire after `ttl` seconds, more than 0; answered by whether there is one."""

    name: ClassVar[str] = "expire"
    key: str
    ttl: float


Command: TypeAlias = Get | Set | SetIfAbsent | Delete | Increment | Expire
