"""Decodes HPACK's Huffman code (RFC 7541, appendix B) a byte at a time, with the tables of the `hpack` library.

The library steps through half bytes. Two of its steps are one of ours, built when first needed. A value that nobody
reads, such as a `traceparent`, which differs in every call, is only checked: that takes a fifth of decoding it.
"""

from typing import Final

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

_BYTES: Final = 256
_END: Final = 256
"""The index for the end of the text in a walk."""
_NOT_PLAIN: Final = frozenset(b" \t\r\n\0")

_Walk = list["_Walk"]
"""A state for `is_plain`: the next state by byte, or by the end. A plain list: twice as fast as a subclass."""
_PLAIN: Final[_Walk] = []
_UNKNOWN: Final[_Walk] = []
"""Not plain, or a byte that has not been decoded in this state yet."""
_UNKNOWN.extend([_UNKNOWN] * (_BYTES + 1))


class _State(list[tuple["_State", bytes] | None]):
    """A state of the decoder: by the next byte, the state after it and the symbols it completes."""

    __slots__ = ("complete", "node", "walk")

    def __init__(self, node: int, complete: bool) -> None:
        super().__init__([None] * _BYTES)
        self.node = node
        """The library's number of this state."""
        self.complete = complete
        """The text may end in this state."""
        self.walk: _Walk = [_UNKNOWN] * _BYTES + [_PLAIN if complete else _UNKNOWN]

    def step(self, byte: int) -> tuple["_State", bytes]:
        """Compute the step for a byte and store it; raises ValueError."""
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
        if _NOT_PLAIN.isdisjoint(symbols):
            self.walk[byte] = state.walk
        return state, symbols


_START: Final = _State(0, True)
_states: Final[dict[tuple[int, bool], _State]] = {(0, True): _START}
"""Decoder states: at most 512, of 4 KiB each; a few dozen in practice."""


def decode_huffman(data: bytes) -> bytes:
    """Decode a string literal; raises ValueError for invalid code or wrong padding."""
    state = _START
    symbols = []
    for byte in data:
        state, emitted = state[byte] or state.step(byte)
        symbols.append(emitted)
    if not state.complete:
        raise ValueError("Huffman code ends within a symbol, or is padded wrongly")
    return b"".join(symbols)


def is_plain(data: bytes) -> bool:
    """Return whether a string literal is known to be Huffman code of a text without white space and NUL.

    If not, decode it; if that succeeds, texts like it are known from then on.
    """
    walk = _START.walk
    for byte in data:
        walk = walk[byte]
    return walk[_END] is _PLAIN
