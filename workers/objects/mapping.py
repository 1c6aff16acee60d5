"""Protobuf messages as maps with the messages' field names (MessagePack-RPC), and back.

Strings and binary stay apart, integers and doubles keep their type, and what is absent, or None, stays absent.
"""

from collections.abc import Callable, Container, Mapping
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import EncodeError, Message

from tykpy.workers.objects.records import is_map

_MessageT = TypeVar("_MessageT", bound=Message)

# Descriptors are Any below: there are two implementations of them (upb and pure Python), without a common type.

_STRINGS: Final = frozenset({str})
_INT32: Final = range(-(1 << 31), 1 << 31)
_INT64: Final = range(-(1 << 63), 1 << 63)


class FieldError(ValueError):
    """A map that is not a message: the path of the field, and what is wrong with it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path or 'the message'}: {message}")
        self.path = path


def from_map(message_type: type[_MessageT], values: object) -> _MessageT:
    """Make a message of a map.

    Raises FieldError, naming the path of the field, for an unknown name or a value of a wrong type.
    """
    _check_message(message_type.DESCRIPTOR, values, "")
    try:
        return message_type(**values)  # type: ignore[arg-type]  # checked
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise FieldError("", str(error)) from error


def to_map(message: Message, but: Container[str] = ()) -> dict[str, Any]:
    """Make a map of a message: of the fields that are present, and of scalars that are not their default.

    `but` names fields to leave out.
    """
    converters = _converters(message.DESCRIPTOR)
    result = {}
    for field, value in message.ListFields():
        name, convert = converters[field.number]
        if name not in but:
            result[name] = value if convert is None else convert(value)
    return result


@cache
def _converters(descriptor: Any) -> dict[int, tuple[str, Callable[[Any], Any] | None]]:
    return {field.number: (field.name, _converter(field)) for field in descriptor.fields}


def _converter(field: Any) -> Callable[[Any], Any] | None:
    if is_map(field):
        if field.message_type.fields_by_name["value"].message_type is None:
            return entries
        return lambda value: {key: to_map(entry) for key, entry in value.items()}
    if field.message_type is None:
        return list if field.is_repeated else None
    return (lambda value: [to_map(entry) for entry in value]) if field.is_repeated else to_map


def entries(value: Any) -> dict[str, Any]:
    return {key: value[key] for key in value}  # half of what dict() takes, which asks for keys() first


@cache
def _checks(descriptor: Any) -> dict[str, Callable[[Any, str], None]]:
    return {field.name: _check(field) for field in descriptor.fields}


def _check(field: Any) -> Callable[[Any, str], None]:
    if is_map(field):
        value_check = _check_single(field.message_type.fields_by_name["value"])
        return lambda values, path: _check_map(value_check, values, path)
    single = _check_single(field)
    return (lambda values, path: _check_list(single, values, path)) if field.is_repeated else single


def _check_single(field: Any) -> Callable[[Any, str], None]:
    if field.message_type is not None:
        return lambda value, path: _check_message(field.message_type, value, path)
    if field.enum_type is not None:
        return lambda value, path: _check_enum(field, value, path)
    return _SCALARS[field.cpp_type, field.type == FieldDescriptor.TYPE_BYTES]


def _check_message(descriptor: Any, values: object, path: str) -> None:
    if not isinstance(values, Mapping):
        raise _wrong(path, "a map", values)
    checks = _checks(descriptor)
    for name, value in values.items():
        check = checks.get(name)
        if check is None:
            raise FieldError(_below(path, name), f"{descriptor.name} has no such field")
        if value is not None:
            check(value, _below(path, name))


def _check_map(value_check: Callable[[Any, str], None], values: object, path: str) -> None:
    if not isinstance(values, Mapping):
        raise _wrong(path, "a map", values)
    if value_check is _check_string and set(map(type, values)) | set(map(type, values.values())) <= _STRINGS:
        return  # nearly every map: no path is built for each of its entries
    for key, value in values.items():
        if type(key) is not str:
            raise _wrong(path, "a map with string keys", key)
        value_check(value, f"{path}[{key!r}]")


def _check_list(single: Callable[[Any, str], None], values: object, path: str) -> None:
    if not isinstance(values, list | tuple):
        raise _wrong(path, "an array", values)
    for index, value in enumerate(values):
        single(value, f"{path}[{index}]")


def _check_string(value: object, path: str) -> None:
    if type(value) is not str:
        raise _wrong(path, "a string", value)


def _check_bytes(value: object, path: str) -> None:
    if type(value) is not bytes:
        raise _wrong(path, "binary", value)


def _check_bool(value: object, path: str) -> None:
    if type(value) is not bool:
        raise _wrong(path, "true or false", value)


def _check_double(value: object, path: str) -> None:
    if type(value) is not float and type(value) is not int:
        raise _wrong(path, "a number", value)


def _check_int32(value: object, path: str) -> None:
    if type(value) is not int or value not in _INT32:
        raise _wrong(path, "an integer of 32 bits", value)


def _check_int64(value: object, path: str) -> None:
    if type(value) is not int or value not in _INT64:
        raise _wrong(path, "an integer of 64 bits", value)


def _check_enum(field: Any, value: object, path: str) -> None:
    names = field.enum_type.values_by_name
    if type(value) is str and value in names:
        return
    if type(value) is not int or value not in _INT32:
        raise _wrong(path, f"one of {', '.join(names)}, or its number", value)


_SCALARS: Final[dict[tuple[int, bool], Callable[[Any, str], None]]] = {
    (FieldDescriptor.CPPTYPE_STRING, False): _check_string,
    (FieldDescriptor.CPPTYPE_STRING, True): _check_bytes,
    (FieldDescriptor.CPPTYPE_BOOL, False): _check_bool,
    (FieldDescriptor.CPPTYPE_DOUBLE, False): _check_double,
    (FieldDescriptor.CPPTYPE_INT32, False): _check_int32,
    (FieldDescriptor.CPPTYPE_INT64, False): _check_int64,
}
"""By C++ type, and whether it is binary: the types that the gateway's messages have."""


def _below(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _wrong(path: str, wanted: str, value: object) -> FieldError:
    shown = repr(value) if isinstance(value, bool | int | float) else type(value).__name__
    return FieldError(path, f"expected {wanted}, got {shown}")
