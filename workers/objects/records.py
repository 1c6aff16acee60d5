"""Protobuf messages as typed records: what MessagePack maps are read into, checked on the way, and written from.

A record type is made of a message's descriptor. msgspec checks names and types while it decodes: strings and binary
stay apart, no integer is taken for a boolean or a double for an integer. None: the field is absent.
"""

from collections.abc import Callable
from functools import cache
from math import copysign
from types import GenericAlias
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from google.protobuf.descriptor import FieldDescriptor

Record: TypeAlias = Any
"""An instance of a `record_type`: its attributes are the message's fields."""
Fill: TypeAlias = Callable[[Any, Record], None]

# Descriptors are Any below: there are two implementations of them (upb and pure Python), without a common type.

_INT32: Final = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
_INT64: Final = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_SCALARS: Final[dict[int, Any]] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BYTES: bytes,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_ENUM: _INT32 | str,
}
"""The types that the gateway's messages have; an enum may be given as its number or its name."""


def is_map(field: Any) -> bool:
    """Whether the field is a map, which protobuf describes as a repeated message."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


ABSENT: Final = msgspec.Raw()
"""Stands for the absent value of a field that a record keeps as the bytes it came as."""


@cache
def record_type(descriptor: Any, raw: str = "") -> type[msgspec.Struct]:
    """The type of a message's records, the field called `raw` left encoded. No gateway message contains itself."""
    fields: list[tuple[str, Any, Any]] = [
        (field.name, msgspec.Raw, ABSENT) if field.name == raw else (field.name, _type_of(field) | None, None)
        for field in descriptor.fields
    ]
    return msgspec.defstruct(descriptor.name, fields, forbid_unknown_fields=True, omit_defaults=True, gc=False)


def _type_of(field: Any) -> Any:
    if is_map(field):
        return GenericAlias(dict, (str, _single_type(_map_value(field))))
    single = _single_type(field)
    return GenericAlias(list, (single,)) if field.is_repeated else single


def _single_type(field: Any) -> Any:
    return _SCALARS[field.type] if field.message_type is None else record_type(field.message_type)


def _map_value(field: Any) -> Any:
    return field.message_type.fields_by_name["value"]


# Filling a message is a third of what a map costs more than protobuf, and nearly all of it would be looking for the
# fields that are there: so the function is written out per message type, as `dataclasses` writes its `__init__`.

_FUNCTION: Final = """\
def fill(message, record):
"""
_FIELD: Final = """\
    value = record.{name}
    if value:
        {put}
    elif value is not None:
        nothing(message, record, "{name}", value)
"""
_SCALAR: Final = "message.{name} = value"
_ENUM: Final = """\
message.{name} = value
        if type(value) is str: record.{name} = message.{name} or None"""
_MESSAGE: Final = """\
part = message.{name}
        fill_{name}(part, value)
        if not message.HasField("{name}"): part.SetInParent()"""
_LIST: Final = "message.{name}.extend(value)"
_MESSAGES: Final = "fill_all(message.{name}, value, fill_{name})"
_MAP: Final = """\
entries = message.{name}
        for key, entry in value.items(): entries[key] = entry"""
_MAP_OF_MESSAGES: Final = """\
entries = message.{name}
        for key, entry in value.items(): fill_{name}(entries[key], entry)"""


@cache
def filler(descriptor: Any, names: tuple[str, ...] = ()) -> Fill:
    """The function `(message, record)` that puts a record's fields into an empty message of this type.

    All fields, or only those of these names. What is in the record and says nothing (an empty string, a 0) becomes
    None there, as it is absent in the message.
    It raises ValueError for a name that the enum does not have.
    """
    fields = [field for field in descriptor.fields if not names or field.name in names]
    source = _FUNCTION + "".join(_FIELD.format(name=f.name, put=_put(f).format(name=f.name)) for f in fields)
    known: dict[str, Any] = {"nothing": _drop, "fill_all": _fill_all}
    for field in fields:
        part = _map_value(field).message_type if is_map(field) else field.message_type
        if part is not None:
            known[f"fill_{field.name}"] = filler(part)
    exec(compile(source, f"<filler of {descriptor.full_name}>", "exec"), known)
    function: Fill = known["fill"]
    return function


def _put(field: Any) -> str:
    if is_map(field):
        return _MAP if _map_value(field).message_type is None else _MAP_OF_MESSAGES
    if field.message_type is not None:
        return _MESSAGES if field.is_repeated else _MESSAGE
    if field.is_repeated:
        return _LIST
    return _SCALAR if field.enum_type is None else _ENUM


def _drop(message: Any, record: Record, name: str, value: Any) -> None:
    if isinstance(value, float) and copysign(1.0, value) < 0:
        setattr(message, name, value)  # minus zero is no default
    else:
        setattr(record, name, None)


def _fill_all(messages: Any, records: list[Record], fill: Fill) -> None:
    for record in records:
        fill(messages.add(), record)
