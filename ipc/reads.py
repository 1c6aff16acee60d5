"""What one call read besides its arguments, on its way from a worker to a recording and back."""

from typing import Final

import msgspec

from tykpy.ipc.frame import Packed

REPLAY_VARIABLE: Final = "_TYKPY_REPLAY"
"""Names the folder with what replayed calls are to read, for the workers of the broker that replays them."""
MAX_READS: Final = 1024 * 1024
"""Most bytes of keys and values of one call."""


class StoreRead(msgspec.Struct, frozen=True, array_like=True):
    """What a key had, as far as a command told, where the call could not know it from what it did before."""

    key: str
    uses: int
    """How often the call had used the key before."""
    value: bytes | bool | None
    """True: some value; None: none; False: the store did not work."""


class CallReads(msgspec.Struct, omit_defaults=True):
    """What a call read, in the order in which it did."""

    times: list[float] = []
    """What `tyk.time` returned."""
    times_left: list[float | None] = []
    """What `tyk.current().time_left` was; None: infinite."""
    seed: bytes = b""
    """Of the call's random numbers; empty: it used none."""
    store: list[StoreRead] = []
    complete: bool = True
    """Whether it is all; not if there was too much."""


_WITH_READS: Final = b"\x94"
"""Begins an array of four."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(CallReads).decode
_decode_answer: Final = msgspec.msgpack.Decoder(tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw, bytes]).decode


def unpack_reads(packed: bytes) -> CallReads:
    """Decode what a call read. Raises ValueError."""
    return _decode(packed)


def add_reads(answer: Packed, reads: CallReads, max_size: int) -> Packed:
    """Return an answer or error frame with a fourth element: what the call read.

    An answer that would have more than `max_size` bytes is returned as it is.
    """
    head, body = answer
    kind, meta, within = msgspec.msgpack.decode(head, type=tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw])
    packed = _encode((kind, meta, within if body is None else body, _encode(reads)))
    return (packed, None) if len(packed) <= max_size else answer


def split_reads(answer: Packed) -> tuple[Packed, bytes]:
    """Return an answer or error frame without what the call read, and that, packed; nothing if there is none."""
    head, body = answer
    if head[:1] != _WITH_READS:
        return answer, b""
    try:
        kind, meta, result, reads = _decode_answer(head)
    except ValueError:
        return answer, b""
    return (_encode((kind, meta, result)), body), reads
