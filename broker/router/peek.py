"""Read from an encoded message only what the router needs: the hook, its API and its bundle.

Protobuf fields are found by walking tags and lengths. All others are skipped and never decoded: the worker decodes them
and reports what is wrong with them. As in protobuf, the last value of a field or map key wins. There are readers with
the same results for messages that arrive as MessagePack maps.
"""

from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

import msgspec

from tykpy.broker.protowire import (
    MAX_FIELDS,
    ProtobufError,
    WireType,
    bytes_fields,
    read_length,
    read_tag,
    read_varint,
    skip_value,
)
from tykpy.ipc.frame import Kind

HOOK_TYPES: Final = ("Unknown", "Pre", "Post", "PostKeyAuth", "CustomKeyCheck", "Response")
"""Names of `coprocess.HookType` by number: a map may have either."""
CUSTOM_KEY_CHECK: Final = HOOK_TYPES.index("CustomKeyCheck")

# Tags (field number << 3 | wire type) of `Object`; all take one byte.
_HOOK_TYPE: Final = 0x08
_HOOK_NAME: Final = 0x12
_SPEC: Final = 0x32
_BYTES_TAGS: Final = frozenset(number << 3 | int(WireType.BYTES) for number in range(1, 16))
"""Length-delimited fields whose tag takes one byte: all that a gateway sends today, except the hook type."""
_ONE_BYTE: Final = 0x80
"""Tags and lengths below it take one byte."""
_KEY: Final = 0x0A
_VALUE: Final = 0x12
_SHORTEST_START: Final = 4
"""Bytes: a tag, the hook type, a tag, the length of the hook's name."""
_SHORTEST_ENTRY: Final = 4
"""Bytes: two tags, two lengths."""

_FIELDS: Final = range(MAX_FIELDS)
_MAX_OTHERS: Final = 100
"""Fields of an Object that no gateway sends today."""
_MAX_ENTRY_FIELDS: Final = 16
"""Fields of an entry of spec, which has a key and a value."""

_EVENT_PAYLOAD: Final = 1
"""`coprocess.Event.payload`: JSON."""

_MAX_REMEMBERED: Final = 8192
"""Results that are remembered: hooks of APIs. If more than these are called in rotation, none is found."""
_MAX_REMEMBERED_BYTES: Final = 2048
"""A hook's name and its encoded spec are remembered up to this size together: at most 16 MiB in all, usually 2 MiB."""
_remembered: Final[dict[tuple[int, bytes, bytes], "Peek"]] = {}
"""Results by hook type, hook name, and the bytes from the first entry of spec on."""
_remembered_maps: Final[dict[tuple[int | str | None, str | None, bytes], "Peek"]] = {}
"""Results by hook type, hook name, and the bytes of spec."""

_Key = TypeVar("_Key")
Encoded = bytes | memoryview
"""An encoded object; bytes() copies nothing if it is `bytes` already."""


class PeekError(ProtobufError):
    """The bytes are not an `Object`."""


class Peek(NamedTuple):
    """The routing information of an `Object`."""

    hook_type: int
    hook_name: str
    api_id: str
    bundle_hash: str


class _Spec(msgspec.Struct, gc=False):
    """The part of a map's `spec` that is read; msgspec steps over everything else, and takes the last of equal keys."""

    api_id: str | None = msgspec.field(default=None, name="APIID")
    bundle_hash: str | None = None


class _ObjectMap(msgspec.Struct, gc=False):
    """The part of an Object's map that is read."""

    hook_type: int | str | None = None
    hook_name: str | None = None
    spec: msgspec.Raw = msgspec.Raw()


class _EventMap(msgspec.Struct, gc=False):
    """The part of an Event's map that is read."""

    payload: str


class _EventPayload(msgspec.Struct, gc=False):
    """The part of an event's JSON that is read."""

    handler_name: str


_NO_SPEC: Final = _Spec()
_decode_object_map: Final = msgspec.msgpack.Decoder(_ObjectMap).decode
_decode_spec: Final = msgspec.msgpack.Decoder(_Spec | None).decode
_decode_event_map: Final = msgspec.msgpack.Decoder(_EventMap).decode
_decode_event_payload: Final = msgspec.json.Decoder(_EventPayload).decode


def peek(data: Encoded) -> Peek:
    """Read the routing information of an Object; raises PeekError if the top level is not valid protobuf."""
    try:
        return _peek(data)
    except (ProtobufError, UnicodeDecodeError) as error:
        raise PeekError(f"not a coprocess.Object: {error}") from error


def peek_map(body: bytes) -> Peek:
    """Read the routing information of an Object in MessagePack; absent and nil fields are 0 or "".

    Raises PeekError if the bytes are not such a map.
    """
    try:
        seen = _decode_object_map(body)
        key = seen.hook_type, seen.hook_name, bytes(seen.spec)
        return _remembered_maps.get(key) or _peek_spec(*key)
    except (ValueError, RecursionError) as error:
        raise PeekError(str(error) or type(error).__name__) from error


def peek_handler(kind: int, body: bytes) -> str:
    """Return the name of the handler that an event is for, or an empty one if the bytes contain none."""
    try:
        payload = _event_payload(body) if kind == Kind.EVENT else _decode_event_map(body).payload
        return _decode_event_payload(payload).handler_name
    except (ValueError, RecursionError):
        return ""


def peek_name(head: bytes) -> str:
    """Return the hook's name from the beginning of an encoded Object, or an empty one if it is not there."""
    with suppress(ProtobufError):
        for number, value in bytes_fields(head):
            if number == _HOOK_NAME >> 3:
                return value.decode(errors="replace")
    return ""


def _peek(data: Encoded) -> Peek:
    hook_type, hook_name = 0, b""
    spec: dict[bytes, bytes] = {}
    seen = None
    at, size, others = 0, len(data), 0
    if size > _SHORTEST_START and data[0] == _HOOK_TYPE and data[2] == _HOOK_NAME and data[1] | data[3] < _ONE_BYTE:
        # How a gateway's objects start; everything else is found below.
        hook_type, at = data[1], _SHORTEST_START + data[3]
        hook_name = bytes(data[_SHORTEST_START:at])
        if at > size:
            raise ProtobufError("a length that leads beyond the end")
    for _ in _FIELDS:
        if at >= size:
            break
        tag = data[at]
        if tag == _SPEC and seen is None and size - at + len(hook_name) <= _MAX_REMEMBERED_BYTES:
            # From here on, a gateway sends the same bytes for every call of one hook by one API.
            seen = (hook_type, hook_name, bytes(data[at:]))
            found = _remembered.get(seen)
            if found is not None:
                return found
        if tag in _BYTES_TAGS:
            start, at = _bounds(data, at + 1, size)
            if tag == _SPEC:
                _read_entry(data, start, at, spec)
            elif tag == _HOOK_NAME:
                hook_name = bytes(data[start:at])
        elif tag == _HOOK_TYPE:
            hook_type, at = read_varint(data, at + 1)
        else:
            others += 1
            if others > _MAX_OTHERS:
                raise ProtobufError(f"more than {_MAX_OTHERS} unknown fields")
            number, wire_type, at = read_tag(data, at)
            at = skip_value(data, at, number, wire_type)
    if at < size:
        raise ProtobufError(f"more than {MAX_FIELDS} fields")
    api_id, bundle_hash = spec.get(b"APIID", b""), spec.get(b"bundle_hash", b"")
    result = Peek(_int32(hook_type), hook_name.decode(), api_id.decode(), bundle_hash.decode())
    if seen is not None:
        _remember(_remembered, seen, result)
    return result


def _peek_spec(hook_type: int | str | None, hook_name: str | None, packed: bytes) -> Peek:
    spec = (_decode_spec(packed) if packed else None) or _NO_SPEC
    if isinstance(hook_type, str) and hook_type not in HOOK_TYPES:
        raise PeekError(f"hook_type {hook_type!r} is none of {', '.join(HOOK_TYPES)}")
    number = HOOK_TYPES.index(hook_type) if isinstance(hook_type, str) else hook_type or 0
    result = Peek(number, hook_name or "", spec.api_id or "", spec.bundle_hash or "")
    if len(packed) + len(result.hook_name) <= _MAX_REMEMBERED_BYTES:
        _remember(_remembered_maps, (hook_type, hook_name, packed), result)
    return result


def _remember(results: dict[_Key, Peek], key: _Key, result: Peek) -> None:
    if len(results) >= _MAX_REMEMBERED:
        results.clear()
    results[key] = result


def _event_payload(body: bytes) -> bytes:
    return dict(bytes_fields(body)).get(_EVENT_PAYLOAD, b"")


def _bounds(data: Encoded, at: int, size: int) -> tuple[int, int]:
    """Find where a length-delimited value starts and ends; its length, nearly always one or two bytes, is at `at`."""
    start = at + 1
    if start < size:
        length = data[at]
        if length >= _ONE_BYTE and data[start] < _ONE_BYTE:
            length += (data[start] - 1) * _ONE_BYTE
            start += 1
        end = start + length
        if end <= size and data[start - 1] < _ONE_BYTE:
            return start, end
    return read_length(data, at)


def _read_entry(data: Encoded, at: int, end: int, spec: dict[bytes, bytes]) -> None:
    """Read one entry of the map: nearly always a short key and a short value, and nothing else."""
    if end - at >= _SHORTEST_ENTRY and data[at] == _KEY:
        stop = at + 2 + data[at + 1]
        short = stop + 1 < end and data[stop] == _VALUE and data[at + 1] | data[stop + 1] < _ONE_BYTE
        if short and stop + 2 + data[stop + 1] == end:
            spec[bytes(data[at + 2 : stop])] = bytes(data[stop + 2 : end])
            return
    _read_any_entry(bytes(data[at:end]), spec)


def _read_any_entry(entry: bytes, spec: dict[bytes, bytes]) -> None:
    """Read an entry whose fields have any order; like protobuf, skip an entry with fields other than key and value."""
    key = value = b""
    at = 0
    for _ in range(_MAX_ENTRY_FIELDS):
        if at >= len(entry):
            spec[key] = value
            return
        number, wire_type, at = read_tag(entry, at)
        tag = number << 3 | wire_type
        if tag not in (_KEY, _VALUE):
            return
        start, at = read_length(entry, at)
        if tag == _KEY:
            key = entry[start:at]
        else:
            value = entry[start:at]
    raise ProtobufError(f"an entry of spec with {_MAX_ENTRY_FIELDS} fields")


def _int32(value: int) -> int:
    """Return an enum's number as protobuf reads it: the lower 32 bits, signed."""
    value &= 0xFFFF_FFFF
    return value - 2**32 if value >= 2**31 else value
