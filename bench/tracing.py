"""A new `traceparent` for every call, as a gateway that traces sends it: the literal of grpc-go, Huffman-coded, not
indexed where the peer has no table (RFC 7541, 6.2.2; W3C Trace Context).
"""

import os
from collections.abc import Iterator
from itertools import chain
from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

AHEAD: Final = 1 << 17
"""Made before the load begins, so that making them does not slow it down: some seconds' worth."""
_TRACE_ID: Final = 16
_SPAN_ID: Final = 8
"""Bytes."""
_LITERAL: Final = b"\x00"
_HUFFMAN: Final = 0x80


def traceparents() -> Iterator[bytes]:
    """Encoded fields without an end, each different."""
    ahead = [_field() for _ in range(AHEAD)]
    return chain(ahead, iter(_field, None))


def _bits(text: bytes) -> str:
    return "".join(f"{REQUEST_CODES[byte]:0{REQUEST_CODES_LENGTH[byte]}b}" for byte in text)


_HEX: Final = tuple(_bits(b"%02x" % number) for number in range(256))
_BEGIN, _MIDDLE, _END = _bits(b"00-"), _bits(b"-"), _bits(b"-01")


def _field() -> bytes:
    ids = os.urandom(_TRACE_ID + _SPAN_ID)
    trace = [_HEX[byte] for byte in ids[:_TRACE_ID]]
    span = [_HEX[byte] for byte in ids[_TRACE_ID:]]
    return _NAME + _string("".join((_BEGIN, *trace, _MIDDLE, *span, _END)))


def _string(bits: str) -> bytes:
    size = (len(bits) + 7) // 8
    padding = size * 8 - len(bits)
    return bytes([_HUFFMAN | size]) + int(bits + "1" * padding, 2).to_bytes(size, "big")


_NAME: Final = _LITERAL + _string(_bits(b"traceparent"))
