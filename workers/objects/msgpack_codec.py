"""Convert between protobuf messages and MessagePack maps that have the messages' field names (MessagePack-RPC).

Strings and binary stay distinct, integers and doubles keep their type, and absent fields, or None, stay absent.
"""

from collections.abc import Callable, Container, Iterable
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import EncodeError, Message

_MessageT = TypeVar("_MessageT", bound=Message)
_Check = Callable[[Any], None]

# Descriptors are Any below: there are two implementations of them (upb and pure Python), without a common type.

_STRINGS: Final = frozenset({str})
_INT32: Final = range(-(1 << 31), 1 << 31)
_INT64: Final = range(-(1 << 63), 1 << 63)
_unpack: Final = msgspec.msgpack.Decoder().decode
_pack: Final = msgspec.msgpack.Encoder().encode


class FieldError(ValueError):
    """A map that does not describe a message."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path = ""
        """The path of the wrong field. It grows from the inside out, so that correct maps pay nothing for it."""

    def __str__(self) -> str:
        return f"{self.path or 'the message'}: {self.args[0]}"

    def below(self, name: str) -> "FieldError":
        """Put a field's name, or an index in brackets, in front of the path."""
        self.path = f"{name}.{self.path}" if self.path and self.path[0] != "[" else name + self.path
        return self


def decode(message_type: type[_MessageT], packed: bytes) -> _MessageT:
    """Convert a MessagePack map to a message.

    Raises FieldError like `from_map`, and ValueError if the bytes are not MessagePack.
    """
    try:
        values = _unpack(packed)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return from_map(message_type, values)


def encode(message: Message) -> bytes:
    """Encode a message as a MessagePack map."""
    return _pack(to_map(message))


def from_map(message_type: type[_MessageT], values: object) -> _MessageT:
    """Convert a map to a message.

    Raises FieldError, which names the path of the field, for an unknown name or a value of a wrong type.
    """
    try:
        _message_check(message_type.DESCRIPTOR)(values)
        return message_type(**values)  # type: ignore[arg-type]  # checked
    except FieldError:
        raise
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise FieldError(str(error)) from error


def to_map(message: Message) -> dict[str, Any]:
    """Convert a message to a map of the fields that are present and the scalars that are not their default."""
    convert: Callable[[Any], dict[str, Any]] = _message_converter(message.DESCRIPTOR)
    return convert(message)


def entries(value: Any) -> dict[str, Any]:
    """Copy a protobuf map into a dict."""
    return {key: value[key] for key in value}  # twice as fast as dict(), which calls keys() first


@cache
def _message_converter(descriptor: Any) -> Callable[[Any], dict[str, Any]]:
    converters = {field: (field.name, _converter(field)) for field in descriptor.fields}

    def convert(message: Any) -> dict[str, Any]:
        result = {}
        for field, value in message.ListFields():
            name, of_value = converters[field]
            result[name] = value if of_value is None else of_value(value)
        return result

    return convert


def _converter(field: Any) -> Callable[[Any], Any] | None:
    if _is_map(field):
        value_type = field.message_type.fields_by_name["value"].message_type
        if value_type is None:
            return entries
        of_entry = _message_converter(value_type)
        return lambda value: {key: of_entry(value[key]) for key in value}
    if field.message_type is None:
        return list if field.is_repeated else None
    single = _message_converter(field.message_type)
    return (lambda value: list(map(single, value))) if field.is_repeated else single


def _is_map(field: Any) -> bool:
    """Whether the field is a map, which protobuf describes as a repeated message."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


@cache
def _message_check(descriptor: Any) -> _Check:
    """Return the check of a message's map. No message of the gateway contains itself."""
    checks = {field.name: _field_check(field) for field in descriptor.fields}

    def check(values: Any) -> None:
        if type(values) is not dict:
            raise _wrong("a map", values)
        for name, value in values.items():
            known = checks.get(name)
            if known is None:
                raise FieldError(f"{descriptor.name} has no such field").below(str(name))
            right_type, check_value = known
            if type(value) is not right_type and value is not None:
                try:
                    check_value(value)
                except FieldError as error:
                    raise error.below(name) from None

    return check


def _field_check(field: Any) -> tuple[type | None, _Check]:
    """Return the type whose values are all valid, if there is one, and the check for any other value."""
    if _is_map(field):
        return None, _map_check(*_single_check(field.message_type.fields_by_name["value"]))
    right_type, check = _single_check(field)
    return (None, _list_check(check)) if field.is_repeated else (right_type, check)


def _single_check(field: Any) -> tuple[type | None, _Check]:
    if field.message_type is not None:
        return None, _message_check(field.message_type)
    if field.enum_type is not None:
        return None, _enum_check(field.enum_type.values_by_name)
    return _SCALARS[field.type]


def _map_check(right_type: type | None, check_value: _Check) -> _Check:
    def check(values: Any) -> None:
        if type(values) is not dict:
            raise _wrong("a map", values)
        if right_type is str and set(map(type, values)) | set(map(type, values.values())) <= _STRINGS:
            return  # nearly every map
        for key in values:
            if type(key) is not str:
                raise _wrong("a map with string keys", key)
        _check_all(check_value, values.items())

    return check


def _list_check(check_value: _Check) -> _Check:
    def check(values: Any) -> None:
        if not isinstance(values, list | tuple):
            raise _wrong("an array", values)
        _check_all(check_value, enumerate(values))

    return check


def _check_all(check_value: _Check, values: Iterable[tuple[object, Any]]) -> None:
    for key, value in values:
        try:
            check_value(value)
        except FieldError as error:
            raise error.below(f"[{key!r}]") from None


def _value_check(wanted: str, types: tuple[type, ...], limits: Container[Any] | None = None) -> _Check:
    def check(value: Any) -> None:
        if type(value) not in types or (limits is not None and value not in limits):
            raise _wrong(wanted, value)

    return check


def _enum_check(names: Any) -> _Check:
    def check(value: Any) -> None:
        if type(value) not in (int, str) or value not in (_INT32 if type(value) is int else names):
            raise _wrong(f"one of {', '.join(names)}, or its number", value)

    return check


_SCALARS: Final[dict[int, tuple[type | None, _Check]]] = {
    FieldDescriptor.TYPE_STRING: (str, _value_check("a string", (str,))),
    FieldDescriptor.TYPE_BYTES: (bytes, _value_check("binary", (bytes,))),
    FieldDescriptor.TYPE_BOOL: (bool, _value_check("true or false", (bool,))),
    FieldDescriptor.TYPE_DOUBLE: (float, _value_check("a number", (float, int))),
    FieldDescriptor.TYPE_INT32: (None, _value_check("an integer of 32 bits", (int,), _INT32)),
    FieldDescriptor.TYPE_INT64: (None, _value_check("an integer of 64 bits", (int,), _INT64)),
}
"""The scalar types of the gateway's messages: the type whose values need no check, and the check of others."""


def _wrong(wanted: str, value: object) -> FieldError:
    shown = repr(value) if isinstance(value, bool | int | float) else type(value).__name__
    return FieldError(f"expected {wanted}, got {shown}")
