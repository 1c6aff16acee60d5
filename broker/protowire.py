"""The part of the protobuf wire format that the broker needs: tags, lengths, and a few small messages."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from tykpy.broker.errors import BrokerError

_MAX_VARINT_BITS: Final = 70
_U64: Final = 2**64 - 1
_MAX_FIELD: Final = 2**29 - 1
_MAX_U32_BYTES: Final = 5
"""Longest tag or length in bytes; protobuf accepts them padded with zeros up to here."""
_MAX_GROUPS: Final = 100
"""Deepest nesting of groups: protobuf's own limit."""
_MAX_GROUP_TAGS: Final = 256
"""Tags in a group: messages of gateways have no groups."""
MAX_FIELDS: Final = 10_000
"""Fields of an Object, most of them entries of metadata and spec. Each takes up to 2 us of the event loop, and may have
no more than two bytes."""
_MAX_SMALL_FIELDS: Final = 1_000
"""Fields of all other messages."""


class ProtobufError(BrokerError, ValueError):
    """Bytes that are not protobuf."""


class WireType(IntEnum):
    """Encodings of a field's value."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    GROUP_START = 3
    GROUP_END = 4
    FIXED32 = 5


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read a base-128 integer; return it and where it ends. Raises ProtobufError."""
    value = 0
    for shift in range(0, _MAX_VARINT_BITS, 7):
        if at >= len(data):
            raise ProtobufError("ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, at
    raise ProtobufError("a number of more than ten bytes")


def read_tag(data: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """Read a field's number and wire type; return them and where its value starts. Raises ProtobufError."""
    tag, after = read_varint(data, at)
    number = tag >> 3
    if not 0 < number <= _MAX_FIELD or after - at > _MAX_U32_BYTES:
        raise ProtobufError(f"field number {number}")
    return number, tag & 7, after


def skip_value(data: bytes | memoryview, at: int, number: int, wire_type: int) -> int:
    """Skip a value; return where the next field starts. Raises ProtobufError."""
    if wire_type == WireType.VARINT:
        return read_varint(data, at)[1]
    if wire_type == WireType.BYTES:
        return read_length(data, at)[1]
    if wire_type == WireType.GROUP_START:
        return _skip_group(data, at, number)
    if wire_type not in (WireType.FIXED64, WireType.FIXED32):
        raise ProtobufError(f"wire type {wire_type} of field {number}")
    at += 8 if wire_type == WireType.FIXED64 else 4
    if at > len(data):
        raise ProtobufError(f"ends within field {number}")
    return at


def read_length(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read the length of a length-delimited value; return where it starts and ends. Raises ProtobufError."""
    length, start = read_varint(data, at)
    end = start + length
    if end > len(data) or start - at > _MAX_U32_BYTES:
        raise ProtobufError("a length that leads beyond the end")
    return start, end


def _skip_group(data: bytes | memoryview, at: int, number: int) -> int:
    """Skip a group: long deprecated, but every decoder accepts them in unknown fields."""
    open_groups = [number]
    for _ in range(_MAX_GROUP_TAGS):
        number, wire_type, at = read_tag(data, at)
        if wire_type == WireType.GROUP_START:
            open_groups.append(number)
            if len(open_groups) > _MAX_GROUPS:
                raise ProtobufError("groups nested too deeply")
        elif wire_type == WireType.GROUP_END:
            if open_groups.pop() != number:
                raise ProtobufError(f"group {number} ends where another began")
            if not open_groups:
                return at
        else:
            at = skip_value(data, at, number, wire_type)
    raise ProtobufError("a group of too many fields")


def bytes_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and value of each length-delimited field; skip other fields. Raises ProtobufError."""
    at = 0
    for _ in range(_MAX_SMALL_FIELDS):
        if at >= len(data):
            return
        number, wire_type, at = read_tag(data, at)
        if wire_type == WireType.BYTES:
            start, at = read_length(data, at)
            yield number, data[start:at]
        else:
            at = skip_value(data, at, number, wire_type)
    if at < len(data):
        raise ProtobufError(f"more than {_MAX_SMALL_FIELDS} fields")


def pack_varint(value: int) -> bytes:
    """Encode a base-128 integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def pack_bytes(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field."""
    return pack_varint(number << 3 | WireType.BYTES) + pack_varint(len(value)) + value


def pack_int(number: int, value: int) -> bytes:
    """Encode an integer field."""
    return pack_varint(number << 3 | WireType.VARINT) + pack_varint(value)
