"""Finds the trace that a dispatch continues (W3C Trace Context): in its gRPC metadata, else in the request's headers.

Looks only where gateways put it, and decodes nothing else: most dispatches have neither.
"""

import re
from collections.abc import Iterator
from typing import Final

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
MAX_FIELDS: Final = 64
"""Fields of the metadata that are read."""
MAX_MATCHES: Final = 4
"""Places that are looked at for a header of the request, whose name may also occur elsewhere."""
_VALID_PARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_huffman: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_CODED_PARENTS: Final = (PARENT.encode(), bytes(_huffman.encode(PARENT.encode())))

Carrier = dict[str, str]
"""`traceparent` and `tracestate` by name, as OpenTelemetry's propagators take and give them."""


def incoming_trace(dispatch: Dispatch) -> Carrier | None:
    """Return the trace context that a dispatch continues, or None."""
    if dispatch.metadata is not None:
        found = _from_metadata(dispatch.metadata)
        if found is not None:
            return found
    return None if dispatch.kind in EVENT_KINDS else _from_headers(dispatch)


def _from_metadata(block: bytes) -> Carrier | None:
    if not any(name in block for name in _CODED_PARENTS):
        return None
    fields: dict[bytes, bytes] = {}
    at = 0
    try:
        for _ in range(MAX_FIELDS):
            if at >= len(block):
                break
            name, value, at = read_field(block, at)
            fields.setdefault(name, value)
    except ValueError:
        return None
    return _carrier(fields.get(PARENT.encode(), b""), fields.get(STATE.encode(), b""))


def _from_headers(dispatch: Dispatch) -> Carrier | None:
    body = dispatch.body
    head = body if isinstance(body, bytes) else bytes(body.view()[:SEARCHED])
    if head.find(b"raceparent", 0, SEARCHED) < 0:
        return None
    is_map = dispatch.kind == Kind.OBJECT_MAP
    for value in _values(head, PARENT, is_map):
        found = _carrier(value, next(_values(head, STATE, is_map), b""))
        if found is not None:
            return found
    return None


def _carrier(parent: bytes, state: bytes) -> Carrier | None:
    text = parent.decode("latin-1")
    if _VALID_PARENT.fullmatch(text) is None:
        return None
    if not 0 < len(state) <= MAX_STATE or not state.isascii():
        return {PARENT: text}
    return {PARENT: text, STATE: state.decode()}


def _values(head: bytes, name: str, is_map: bool) -> Iterator[bytes]:
    """Yield the values of a header: of an entry of a protobuf map or a MessagePack map, whose key ends there."""
    rest = name[1:].encode()
    size = len(name) | 0xA0 if is_map else len(name)
    at = 0
    for _ in range(MAX_MATCHES):
        at = head.find(rest, at, SEARCHED)
        if at < 0:
            return
        end = at + len(rest)
        # Gateways write `Traceparent`, HTTP/2 and clients of ours `traceparent`.
        if at >= 2 and head[at - 1 : at].lower() == name[:1].encode() and head[at - 2] == size:
            yield _map_text(head, end) if is_map else _protobuf_text(head, end)
        at = end


def _protobuf_text(head: bytes, at: int) -> bytes:
    """Return the value of a map's entry, after its key; nothing if it has another form."""
    if head[at : at + 1] != b"\x12":
        return b""
    length, start = head[at + 1 : at + 2], at + 2
    size = length[0] if length else 0
    if size >= 0x80:
        size += (head[start] - 1) * 0x80 if start < len(head) else 0
        start += 1
    return head[start : start + size]


def _map_text(head: bytes, at: int) -> bytes:
    """Return a MessagePack string of up to 64 KiB; nothing if it is something else."""
    first = head[at] if at < len(head) else 0
    if first & 0xE0 == 0xA0:
        return head[at + 1 : at + 1 + (first & 0x1F)]
    width = {0xD9: 1, 0xDA: 2}.get(first, 0)
    start = at + 1 + width
    return head[start : start + int.from_bytes(head[at + 1 : start])]
