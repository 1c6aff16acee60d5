"""Reads header fields from a block (RFC 7541, section 6) in time proportional to its size.

Without a dynamic table the meaning of a block depends on its bytes alone, so reading can start at any field.
"""

import re
from collections.abc import Container
from typing import Final

from hpack.table import HeaderTable

from tykpy.broker.http2.hpack.huffman import decode_huffman, is_plain
from tykpy.broker.http2.hpack.table import DynamicTable

_STATIC: Final = tuple(HeaderTable.STATIC_TABLE)
_STATIC_COUNT: Final = len(_STATIC)
_INDEXED: Final = 0x80
_INCREMENTAL: Final = 0x40
_SIZE_UPDATE: Final = 0x20
_NEW_NAME: Final = frozenset((0x00, 0x10, 0x40))
"""First byte of a field with a literal name: not indexed, never indexed, or to be indexed."""
_HUFFMAN: Final = 0x80
_not_plain: Final = re.compile(rb"[ \t\r\n\0]").search
_MAX_INTEGER_BYTES: Final = 4
"""Most bytes of an integer after its prefix; 28 bits are more than any frame holds."""
_MAX_NAMES: Final = 1024
"""Cached names of at most 127 encoded bytes; when full, all are dropped and those in use come back."""
_names: Final[dict[bytes, bytes]] = {}
"""Names by their encoded literals, length included."""
_MAX_SIZE_UPDATES: Final = 2
"""Most size updates of one block: the smallest size since the last block, and the final one (section 4.2)."""


Field = tuple[bytes, bytes, int]
"""Name, value, and where the next field starts."""


def is_size_update(block: bytes) -> bool:
    """Return whether the block starts with a size update of the dynamic table."""
    return bool(block) and block[0] & 0xE0 == _SIZE_UPDATE


def read_size_updates(block: bytes, table: DynamicTable) -> int:
    """Apply the size updates that a block starts with; return where its fields start.

    Raises ValueError for a size that is not allowed. `read_field` refuses further updates.
    """
    at = 0
    for _ in range(_MAX_SIZE_UPDATES):
        if not is_size_update(block[at : at + 1]):
            break
        try:
            size, at = _read_integer(block, at, 0x1F)
        except IndexError:
            raise ValueError("header block ends within a size update") from None
        table.resize(size)
    return at


def read_field(block: bytes, at: int, table: DynamicTable | None = None) -> Field:
    """Read the field at `at`; raises ValueError if it is not HPACK, or needs a table and there is none."""
    try:
        return _read_field(block, at, table)
    except IndexError:
        raise ValueError("header block ends within a field, or names an index that does not exist") from None


def coded_name(block: bytes, at: int) -> bytes:
    """Return the valid field at `at` up to its value if its name is a short literal, else nothing."""
    if block[at] not in _NEW_NAME:
        return b""
    length = block[at + 1] & 0x7F
    return block[at : at + 2 + length] if length < 0x7F else b""


def step_over(block: bytes, at: int, names: Container[bytes]) -> int:
    """Return where the field at `at` ends if it can be skipped, else 0: it has to be read.

    It can be skipped if its name is one of these encoded names and its value is short and known to be plain, that is
    valid HPACK and allowed by HTTP.
    """
    try:
        value_at = at + 2 + (block[at + 1] & 0x7F)
        if block[at:value_at] not in names:
            return 0
        first = block[value_at]
    except IndexError:
        return 0
    length = first & 0x7F
    end = value_at + 1 + length
    if length == 0x7F or end > len(block):
        return 0
    text = block[value_at + 1 : end]
    plain = is_plain(text) if first & _HUFFMAN else not _not_plain(text)
    return end if plain else 0


def _read_field(block: bytes, at: int, table: DynamicTable | None) -> Field:
    first = block[at]
    if first & _INDEXED:
        index, at = _read_integer(block, at, 0x7F)
        name, value = _entry(index, table)
        return name, value, at
    if first & _INCREMENTAL:
        index, at = _read_integer(block, at, 0x3F)
    elif first & _SIZE_UPDATE:
        raise ValueError("a change of the table's size after a field, or one too many")
    else:
        index, at = _read_integer(block, at, 0x0F)
    if index:
        name = _entry(index, table)[0]
    else:
        name, at = _read_name(block, at)
    value, at = _read_string(block, at)
    if table is not None and first & _INCREMENTAL:
        table.add(name, value)
    return name, value, at


def _read_name(block: bytes, at: int) -> tuple[bytes, int]:
    """Read a literal name; the same few come again and again."""
    end = at + 1 + (block[at] & 0x7F)
    literal = block[at:end]
    name = _names.get(literal)
    if name is not None:
        return name, end
    name, after = _read_string(block, at)
    if after == end:
        if len(_names) >= _MAX_NAMES:
            _names.clear()
        _names[literal] = name
    return name, after


def _entry(index: int, table: DynamicTable | None) -> tuple[bytes, bytes]:
    if 0 < index <= _STATIC_COUNT:
        return _STATIC[index - 1]
    if index == 0:
        raise ValueError("index 0")
    if table is None:
        raise ValueError(f"index {index} of a table whose size is 0")
    return table.dynamic_entries[index - _STATIC_COUNT - 1]


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
