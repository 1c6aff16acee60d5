"""Finds a header of a dispatch by the bytes of its name, in the gRPC metadata or in the request; decodes nothing else.

It looks only where gateways put headers. Values are as their sender wrote them: check and cut them.
"""

from collections.abc import Sequence
from typing import Final

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tykpy.broker.http2.hpack.fields import read_field
from tykpy.broker.router.dispatch import Dispatch
from tykpy.ipc.frame import EVENT_KINDS, Kind

SEARCHED: Final = 16 * 1024
"""Bytes of an object in which its headers are looked for; they come before the body."""
_HUFFMAN: Final = 0x80
_FIXSTR: Final = 0xA0
_KEY: Final = 0x0A
_VALUE: Final = 0x12
_huffman: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


class Header:
    """A header, by its name in lower case. The name must not be in HPACK's static table."""

    __slots__ = ("_fields", "_keys", "_map_keys")

    def __init__(self, name: str) -> None:
        plain, coded = name.encode(), bytes(_huffman.encode(name.encode()))
        self._fields = (bytes([_HUFFMAN | len(coded)]) + coded, bytes([len(plain)]) + plain)
        """The name in a header block."""
        # Gateways write `X-Request-Id`, HTTP/2 and clients of ours `x-request-id`.
        spellings = name.title().encode(), plain
        self._keys = [bytes([_KEY, len(key)]) + key + bytes([_VALUE]) for key in spellings]
        """The name as key of a protobuf map's entry, with the tag of the value after it."""
        self._map_keys = [bytes([_FIXSTR | len(key)]) + key for key in spellings]
        """The name as key of a MessagePack map."""

    def in_metadata(self, block: bytes) -> bytes:
        """Return the value of the first field of this name in a header block, or nothing."""
        for name in self._fields:
            at = block.find(name) - 1
            if at >= 0:
                try:
                    return read_field(block, at)[1]
                except ValueError:
                    return b""
        return b""

    def in_request(self, kind: int, head: bytes) -> bytes:
        """Return the value of the request's header in an encoded object of this kind, or nothing."""
        if kind == Kind.OBJECT_MAP:
            return _map_text(head, _after(head, self._map_keys))
        return _protobuf_text(head, _after(head, self._keys)) if kind not in EVENT_KINDS else b""


def head_of(dispatch: Dispatch) -> bytes:
    """Return the beginning of a dispatch's body: `SEARCHED` bytes, or more if that costs nothing."""
    body = dispatch.body
    return body if isinstance(body, bytes) else bytes(body.view()[:SEARCHED])


def _after(head: bytes, keys: Sequence[bytes]) -> int:
    """Return where the first of the keys ends, or where `head` ends if there is none."""
    for key in keys:
        at = head.find(key, 0, SEARCHED)
        if at >= 0:
            return at + len(key)
    return len(head)


def _protobuf_text(head: bytes, at: int) -> bytes:
    """Return a text of up to 16 KiB, whose length is at `at`."""
    length = head[at : at + 2]
    if not length or length[0] < 0x80:
        return head[at + 1 : at + 1 + length[0]] if length else b""
    return head[at + 2 : at + 2 + length[0] + (length[-1] - 1) * 0x80]


def _map_text(head: bytes, at: int) -> bytes:
    """Return a MessagePack string of up to 64 KiB; nothing if it is something else."""
    first = head[at] if at < len(head) else 0
    if first & 0xE0 == _FIXSTR:
        return head[at + 1 : at + 1 + (first & 0x1F)]
    width = {0xD9: 1, 0xDA: 2}.get(first, 0)
    start = at + 1 + width
    return head[start : start + int.from_bytes(head[at + 1 : start])]
