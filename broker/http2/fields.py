"""Header fields read straight from a block that no dynamic table takes part in (RFC 7541, section 6).

With a table of size 0 every block is a pure function of its bytes, so it can be read from any field on.
"""

from typing import Final

from hpack.table import HeaderTable

from broker.http2.huffman import decode_huffman

_STATIC: Final = tuple(HeaderTable.STATIC_TABLE)
_INDEXED: Final = 0x80
_INCREMENTAL: Final = 0x40
_SIZE_UPDATE: Final = 0x20
_HUFFMAN: Final = 0x80
_MAX_INTEGER_BYTES: Final = 4
"""Bytes of an integer after its prefix; 28 bits are more than any frame holds."""
_MAX_NAMES: Final = 1024
"""Names that are remembered, of at most 127 bytes as they are coded."""
_names: Final[dict[bytes, bytes]] = {}
"""Names by their literals, length and all."""


Field = tuple[bytes, bytes, int]
"""Name, value, and where the next field starts."""


def is_size_update(block: bytes) -> bool:
    """Whether the block starts with a change of the dynamic table's size."""
    return bool(block) and block[0] & 0xE0 == _SIZE_UPDATE


def read_field(block: bytes, at: int) -> Field:
    """Read the field at `at`; raises ValueError for whatever needs a dynamic table, or is not HPACK."""
    try:
        return _read_field(block, at)
    except IndexError:
        raise ValueError("header block ends within a field, or names an index that does not exist") from None


def _read_field(block: bytes, at: int) -> Field:
    first = block[at]
    if first & _INDEXED:
        index, at = _read_integer(block, at, 0x7F)
        name, value = _static(index)
        return name, value, at
    if first & _INCREMENTAL:
        index, at = _read_integer(block, at, 0x3F)
    elif first & _SIZE_UPDATE:
        raise ValueError("table size update after a field")
    else:
        index, at = _read_integer(block, at, 0x0F)
    if index:
        name = _static(index)[0]
    else:
        name, at = _read_name(block, at)
    value, at = _read_string(block, at)
    return name, value, at


def _read_name(block: bytes, at: int) -> tuple[bytes, int]:
    """Read a name that is a literal: the same few again and again."""
    end = at + 1 + (block[at] & 0x7F)
    literal = block[at:end]
    name = _names.get(literal)
    if name is not None:
        return name, end
    name, after = _read_string(block, at)
    if after == end and len(_names) < _MAX_NAMES:
        _names[literal] = name
    return name, after


def _static(index: int) -> tuple[bytes, bytes]:
    if index == 0:
        raise ValueError("index 0")
    return _STATIC[index - 1]


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    first = block[at]
    length = first & 0x7F
    if length == 0x7F:
        length, at = _read_integer(block, at, 0x7F)
    else:
        at += 1
    end = at + length
    if end > len(block):
        raise ValueError("header block ends within a string")
    text = block[at:end]
    return (decode_huffman(text) if first & _HUFFMAN else text), end


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("integer is too large")
