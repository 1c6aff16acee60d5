"""Messages from maps, as MessagePack-RPC's callers send them."""

from typing import TypeVar

import msgpack
from google.protobuf.message import Message

from tykpy.workers.objects.msgpack_codec import decode

_MessageT = TypeVar("_MessageT", bound=Message)


def from_map(message_type: type[_MessageT], values: object) -> _MessageT:
    """Convert a map to a message; raises ValueError if it does not describe one."""
    try:
        packed: bytes = msgpack.packb(values)
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return decode(message_type, packed)
