"""What the router wants to know of an `Object`, read from its bytes: hook type, hook name and three entries of spec.

Fields are found by walking tags and lengths; what is in the others is stepped over, never decoded: whoever decodes it
says what is wrong with it. As in protobuf, the last value of a field or map key wins.
"""

from contextlib import suppress
from typing import Final, NamedTuple

from tykpy.broker.protowire import ProtobufError, WireType, bytes_fields, read_length, read_tag, read_varint, skip_value

HOOK_TYPES: Final = ("Unknown", "Pre", "Post", "PostKeyAuth", "CustomKeyCheck", "Response")
"""Names of `coprocess.HookType` by number."""

# Tags (field number << 3 | wire type) of `Object`; all take one byte.
_HOOK_TYPE: Final = 0x08
_HOOK_NAME: Final = 0x12
_SPEC: Final = 0x32
_BYTES_TAGS: Final = frozenset(number << 3 | int(WireType.BYTES) for number in range(1, 16))
"""Length-delimited fields whose tag takes one byte: all that a gateway sends today but the hook type."""
_ONE_BYTE: Final = 0x80
"""Tags and lengths below it take one byte."""
_KEY: Final = 0x0A
_VALUE: Final = 0x12
_SHORTEST_START: Final = 4
"""Bytes: a tag, the hook type, a tag, the length of the hook's name."""
_SHORTEST_ENTRY: Final = 4
"""Bytes: two tags, two lengths."""


_MAX_REMEMBERED: Final = 8192
"""Hooks of APIs: where more are called in turn than are remembered, none is found."""
_MAX_REMEMBERED_BYTES: Final = 2048
"""The hook's name, and what follows the first entry of spec, are remembered up to this size together: at most 16 MiB in
all, usually 2 MiB."""
_remembered: Final[dict[tuple[int, bytes, bytes], "Peek"]] = {}


Encoded = bytes | memoryview
"""An encoded object; bytes() copies nothing where it is `bytes` already."""


class PeekError(ProtobufError):
    """The bytes are not an `Object`."""


class Peek(NamedTuple):
    """What an `Object` is for."""

    hook_type: int
    hook_name: str
    api_id: str
    org_id: str
    bundle_hash: str

    @property
    def hook_type_name(self) -> str:
        """As Tyk calls it; a number that Tyk has not defined as text."""
        known = 0 <= self.hook_type < len(HOOK_TYPES)
        return HOOK_TYPES[self.hook_type] if known else str(self.hook_type)


def peek(data: Encoded) -> Peek:
    """Read what routing needs; raises PeekError, a ValueError, where the top level is not valid protobuf."""
    try:
        return _peek(data)
    except (ProtobufError, UnicodeDecodeError) as error:
        raise PeekError(f"not a coprocess.Object: {error}") from error


def peek_name(head: bytes) -> str:
    """Return the hook's name from the beginning of an encoded Object; empty where it is not in it."""
    with suppress(ProtobufError):
        for number, value in bytes_fields(head):
            if number == _HOOK_NAME >> 3:
                return value.decode(errors="replace")
    return ""


def _peek(data: Encoded) -> Peek:
    hook_type, hook_name = 0, b""
    spec: dict[bytes, bytes] = {}
    seen = None
    at, size = 0, len(data)
    if size > _SHORTEST_START and data[0] == _HOOK_TYPE and data[2] == _HOOK_NAME and data[1] | data[3] < _ONE_BYTE:
        # How a gateway's objects start; everything else is found below.
        hook_type, at = data[1], _SHORTEST_START + data[3]
        hook_name = bytes(data[_SHORTEST_START:at])
        if at > size:
            raise ProtobufError("a length that leads beyond the end")
    while at < size:
        tag = data[at]
        if tag == _SPEC and seen is None and size - at + len(hook_name) <= _MAX_REMEMBERED_BYTES:
            # From here on a gateway sends the same bytes for every call of one hook of one API.
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
            number, wire_type, at = read_tag(data, at)
            at = skip_value(data, at, number, wire_type)
    api_id, org_id = spec.get(b"APIID", b""), spec.get(b"OrgID", b"")
    bundle_hash = spec.get(b"bundle_hash", b"")
    result = Peek(_int32(hook_type), hook_name.decode(), api_id.decode(), org_id.decode(), bundle_hash.decode())
    if seen is not None:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        _remembered[seen] = result
    return result


def _bounds(data: Encoded, at: int, size: int) -> tuple[int, int]:
    """Where the length-delimited value starts and ends whose length, nearly always of one or two bytes, is at `at`."""
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
    """Read an entry in whatever order; like protobuf, leave out one that has more than key and value."""
    key = value = b""
    foreign = False
    at = 0
    while at < len(entry):
        number, wire_type, at = read_tag(entry, at)
        tag = number << 3 | wire_type
        if tag not in (_KEY, _VALUE):
            foreign = True
            at = skip_value(entry, at, number, wire_type)
            continue
        start, at = read_length(entry, at)
        if tag == _KEY:
            key = entry[start:at]
        else:
            value = entry[start:at]
    if not foreign:
        spec[key] = value


def _int32(value: int) -> int:
    """An enum's number as protobuf has it: the lower 32 bits, signed."""
    value &= 0xFFFF_FFFF
    return value - 2**32 if value >= 2**31 else value
