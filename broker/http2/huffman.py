"""HPACK's Huffman code (RFC 7541, appendix B) read a byte at a time, on the tables of the `hpack` library.

The library steps through half bytes. Two of its steps are one of ours, remembered when first made: a value such as
`traceparent`, new in every call, takes a third of the time.
"""

from typing import Final

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

_COMPLETE: Final = 1
"""Lowest bit of a state: the text may end here; above it, the number of the library's node."""
_start: Final = _COMPLETE
_steps: Final[dict[int, tuple[int, bytes]]] = {}
"""(state << 8 | byte) -> (next state, symbols); at most 2**17 entries, a few hundred in practice."""


def decode_huffman(data: bytes) -> bytes:
    """Decode a string literal; raises ValueError where it is not Huffman code, or wrongly padded."""
    state = _start
    steps = _steps
    symbols = []
    for byte in data:
        key = state << 8 | byte
        step = steps.get(key)
        if step is None:
            step = _remember(key)
        state, emitted = step
        symbols.append(emitted)
    if not state & _COMPLETE:
        raise ValueError("Huffman code ends within a symbol, or is padded wrongly")
    return b"".join(symbols)


def _remember(key: int) -> tuple[int, bytes]:
    node = key >> 9
    symbols = b""
    flags = 0
    for nibble in (key >> 4 & 0xF, key & 0xF):
        node, flags, symbol = HUFFMAN_TABLE[node << 4 | nibble]
        if flags & HUFFMAN_FAIL:
            raise ValueError("not Huffman code")
        if flags & HUFFMAN_EMIT_SYMBOL:
            symbols += bytes((symbol,))
    step = (node << 1 | bool(flags & HUFFMAN_COMPLETE), symbols)
    _steps[key] = step
    return step
