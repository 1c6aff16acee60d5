"""Finds the trace that a dispatch continues (W3C Trace Context): in its gRPC metadata, else in the request's headers.

Looks for the bytes of the names only where gateways put them, and decodes nothing else: most dispatches have neither.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tykpy.broker.http2.hpack.fields import read_field
from tykpy.broker.router.dispatch import Dispatch
from tykpy.ipc.frame import EVENT_KINDS, Kind

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
MAX_STATE: Final = 512
"""Longest `tracestate` that is continued, in characters: the specification's own limit for what has to be."""
SEARCHED: Final = 16 * 1024
"""Bytes of an object in which its headers are looked for; they come before the body."""
_is_valid: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_huffman: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_HUFFMAN: Final = 0x80
_FIXSTR: Final = 0xA0
_KEY: Final = 0x0A
_VALUE: Final = 0x12

Carrier = dict[str, str]
"""`traceparent` and `tracestate` by name, as OpenTelemetry's propagators take and give them."""


class IncomingTrace(NamedTuple):
    """The trace that a dispatch continues."""

    parent: str
    """Its `traceparent`."""
    find_state: Callable[[], bytes]
    """Finds its `tracestate`, which only a sampled dispatch needs."""

    @property
    def state(self) -> str:
        """Its `tracestate`; one that is too long is dropped."""
        state = self.find_state()
        return state.decode() if len(state) <= MAX_STATE and state.isascii() else ""


def incoming_trace(dispatch: Dispatch) -> IncomingTrace | None:
    """Return the trace that a dispatch continues, or None."""
    metadata, body = dispatch.metadata, dispatch.body
    if metadata is not None:
        parent = _metadata_value(metadata, _PARENT_FIELDS)
        if _is_valid(parent):
            return IncomingTrace(parent.decode(), partial(_metadata_value, metadata, _STATE_FIELDS))
    head = body if isinstance(body, bytes) else bytes(body.view()[:SEARCHED])
    if head.find(b"raceparent", 0, SEARCHED) < 0 or dispatch.kind in EVENT_KINDS:
        return None
    if dispatch.kind == Kind.OBJECT_MAP:
        parent = _map_value(head, _PARENT_MAP_KEYS)
        find_state = partial(_map_value, head, _STATE_MAP_KEYS)
    else:
        parent = _protobuf_value(head, _PARENT_KEYS)
        find_state = partial(_protobuf_value, head, _STATE_KEYS)
    return IncomingTrace(parent.decode(), find_state) if _is_valid(parent) else None


def _metadata_value(block: bytes, names: Iterable[bytes]) -> bytes:
    """Return the value of a field with one of these encoded names, or nothing."""
    for name in names:
        at = block.find(name) - 1
        if at >= 0:
            try:
                return read_field(block, at)[1]
            except ValueError:
                return b""
    return b""


def _protobuf_value(head: bytes, keys: Iterable[bytes]) -> bytes:
    """Return the value of a map's entry with one of these encoded keys, or nothing; up to 16 KiB."""
    for key in keys:
        at = head.find(key, 0, SEARCHED) + len(key)
        if at >= len(key):
            length = head[at : at + 2]
            if not length or length[0] < 0x80:
                return head[at + 1 : at + 1 + (length[0] if length else 0)]
            size = length[0] + (length[-1] - 1) * 0x80
            return head[at + 2 : at + 2 + size]
    return b""


def _map_value(head: bytes, keys: Iterable[bytes]) -> bytes:
    """Return the value of one of these encoded keys if it is a MessagePack string of up to 64 KiB, or nothing."""
    for key in keys:
        at = head.find(key, 0, SEARCHED) + len(key)
        if at >= len(key):
            first = head[at] if at < len(head) else 0
            if first & 0xE0 == _FIXSTR:
                return head[at + 1 : at + 1 + (first & 0x1F)]
            width = {0xD9: 1, 0xDA: 2}.get(first, 0)
            start = at + 1 + width
            return head[start : start + int.from_bytes(head[at + 1 : start])]
    return b""


def _fields(name: str) -> tuple[bytes, ...]:
    """Return the literals of a name in a header block, Huffman-coded and plain."""
    coded = bytes(_huffman.encode(name.encode()))
    return bytes([_HUFFMAN | len(coded)]) + coded, bytes([len(name)]) + name.encode()


def _spellings(name: str) -> tuple[bytes, ...]:
    """Return a header's name as gateways write it, and as HTTP/2 and clients of ours do."""
    return name.capitalize().encode(), name.encode()


def _keys(name: str) -> tuple[bytes, ...]:
    """Return the key of a protobuf map's entry, with the tag of the value after it."""
    return tuple(bytes([_KEY, len(key)]) + key + bytes([_VALUE]) for key in _spellings(name))


def _map_keys(name: str) -> tuple[bytes, ...]:
    return tuple(bytes([_FIXSTR | len(key)]) + key for key in _spellings(name))


_PARENT_FIELDS: Final = _fields(PARENT)
_STATE_FIELDS: Final = _fields(STATE)
_PARENT_KEYS: Final = _keys(PARENT)
_STATE_KEYS: Final = _keys(STATE)
_PARENT_MAP_KEYS: Final = _map_keys(PARENT)
_STATE_MAP_KEYS: Final = _map_keys(STATE)
