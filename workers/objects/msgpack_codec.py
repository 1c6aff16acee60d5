"""Convert between protobuf messages and MessagePack maps that have the messages' field names (MessagePack-RPC).

Strings and binary stay distinct, integers and doubles keep their type, and absent fields, or None, stay absent.
"""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tykpy.ipc.text import wrong_field

_MessageT = TypeVar("_MessageT", bound=Message)

# Descriptors are Any below: there are two implementations of them (upb and pure Python), without a common type.

_SCALARS: Final[dict[int, Any]] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BYTES: bytes,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_INT32: Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)],
    FieldDescriptor.TYPE_INT64: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)],
}
"""The scalar types of the gateway's messages."""
_pack: Final = msgspec.msgpack.Encoder().encode


def decode(message_type: type[_MessageT], packed: bytes) -> _MessageT:
    """Convert a MessagePack map to a message.

    Raises ValueError if the bytes are not MessagePack, and for an unknown field or a value of a wrong type, with the
    field's path.
    """
    try:
        values = _decoder(message_type.DESCRIPTOR).decode(packed)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(wrong_field(error, "the message")) from error
    return message_type(**msgspec.to_builtins(values, builtin_types=(bytes,)))


def encode(message: Message) -> bytes:
    """Encode a message as a MessagePack map."""
    return _pack(to_map(message))


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
def _decoder(descriptor: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(_struct_of(descriptor))


@cache
def _struct_of(descriptor: Any) -> type[msgspec.Struct]:
    """Return a class with the message's fields and their types. No message of the gateway contains itself."""
    fields = [(field.name, _type_of(field) | None, msgspec.field(default=None)) for field in descriptor.fields]
    return msgspec.defstruct(descriptor.name, fields, forbid_unknown_fields=True, omit_defaults=True, gc=False)


def _type_of(field: Any) -> Any:
    if _is_map(field):
        return dict[str, _single_type(field.message_type.fields_by_name["value"])]  # type: ignore[misc]
    single = _single_type(field)
    return list[single] if field.is_repeated else single  # type: ignore[valid-type]


def _single_type(field: Any) -> Any:
    if field.message_type is not None:
        return _struct_of(field.message_type)
    if field.enum_type is not None:
        return _SCALARS[FieldDescriptor.TYPE_INT32] | Literal[tuple(field.enum_type.values_by_name)]
    return _SCALARS[field.type]
