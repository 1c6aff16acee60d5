"""Which hook a dispatch is for, read from its bytes: needed when a worker has died, and never before."""

from typing import Final, NamedTuple, Self

import msgspec

from tykpy.broker.protowire import ProtobufError, WireType, read_length, read_tag, skip_value
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.peek import PeekError, peek
from tykpy.broker.router.peek_map import peek_map
from tykpy.ipc.frame import Kind

MAX_NAME: Final = 256
"""Characters that are kept of a hook's name, and of a bundle's hash: they come from peers, and are remembered."""
PAYLOAD_FIELD = 1
"""`coprocess.Event.payload`: JSON."""


class _Event(msgspec.Struct, gc=False):
    """What is read of an event that came as a map; msgspec steps over everything else."""

    payload: str


class _Payload(msgspec.Struct, gc=False):
    """What is read of an event's JSON, likewise."""

    handler_name: str


_decode_event: Final = msgspec.msgpack.Decoder(_Event).decode
_decode_payload: Final = msgspec.json.Decoder(_Payload).decode


class Culprit(NamedTuple):
    """A hook, as the gateway names it; an event's handler has no bundle."""

    bundle_hash: str
    name: str

    @classmethod
    def named(cls, bundle_hash: str, name: str) -> Self:
        """The hook of this name; of long texts only the beginning is kept."""
        return cls(bundle_hash[:MAX_NAME], name[:MAX_NAME])

    def __str__(self) -> str:
        return f"hook {self.name}" if self.bundle_hash else f"handler {self.name}"


def culprit_of(dispatch: Dispatch) -> Culprit:
    """The hook, or the event's handler, without a name where the bytes do not give one."""
    kind, body = dispatch.kind, dispatch.encoded
    try:
        if kind in (Kind.EVENT, Kind.EVENT_MAP):
            return Culprit.named("", _handler(kind, body))
        seen = peek(body) if kind == Kind.OBJECT else peek_map(body)
    except (PeekError, ProtobufError, TypeError, ValueError, AttributeError, RecursionError):
        return Culprit("", "")
    return Culprit.named(seen.bundle_hash, seen.hook_name)


def _handler(kind: int, body: bytes) -> str:
    payload = _event_payload(body) if kind == Kind.EVENT else _decode_event(body).payload
    return _decode_payload(payload).handler_name


def _event_payload(body: bytes) -> bytes:
    at, payload = 0, b""
    while at < len(body):
        number, wire_type, at = read_tag(body, at)
        if number == PAYLOAD_FIELD and wire_type == WireType.BYTES:
            start, at = read_length(body, at)
            payload = body[start:at]
        else:
            at = skip_value(body, at, number, wire_type)
    return payload
