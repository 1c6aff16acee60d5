"""HPACK's Huffman code (RFC 7541, appendix B) read a byte at a time, on the tables of the `hpack` library.

The library steps through half bytes. Two of its steps are one of ours, made when first needed: a value such as
`traceparent`, new in every call, takes a quarter of the time.
"""

from typing import Final

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

_BYTES: Final = 256


class _State(list[tuple["_State", bytes] | None]):
    """Where the last byte has led to: by the next byte, the state after that and the symbols it completes."""

    __slots__ = ("complete", "node")

    def __init__(self, node: int, complete: bool) -> None:
        super().__init__([None] * _BYTES)
        self.node = node
        """The library's number of it."""
        self.complete = complete
        """The text may end here."""

    def step(self, byte: int) -> tuple["_State", bytes]:
        """Work out what a byte does here, and remember it; raises ValueError."""
        node, complete = self.node, False
        symbols = b""
        for nibble in (byte >> 4, byte & 0xF):
            node, flags, symbol = HUFFMAN_TABLE[node << 4 | nibble]
            if flags & HUFFMAN_FAIL:
                raise ValueError("not Huffman code")
            if flags & HUFFMAN_EMIT_SYMBOL:
                symbols += bytes((symbol,))
            complete = bool(flags & HUFFMAN_COMPLETE)
        state = _states.get((node, complete)) or _states.setdefault((node, complete), _State(node, complete))
        self[byte] = (state, symbols)
        return state, symbols


_START: Final = _State(0, True)
_states: Final[dict[tuple[int, bool], _State]] = {(0, True): _START}
"""At most 512, of 2 KiB each; a few dozen in practice."""


def decode_huffman(data: bytes) -> bytes:
    """Decode a string literal; raises ValueError where it is not Huffman code, or wrongly padded."""
    state = _START
    symbols = []
    for byte in data:
        state, emitted = state[byte] or state.step(byte)
        symbols.append(emitted)
    if not state.complete:
        raise ValueError("Huffman code ends within a symbol, or is padded wrongly")
    return b"".join(symbols)
