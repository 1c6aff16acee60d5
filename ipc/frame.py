"""What travels between broker and workers: msgpack arrays `[kind, meta, body]`, the one thing that both know.

A request frame says what to run, an answer frame what came of it, an error frame why nothing did. Strings and
binary stay apart on the way (msgpack `str` and `bin`), integers and doubles keep their type.

The meta of a request is its gRPC metadata, as an HPACK header block that uses no table, or nil: no worker decodes what
its hook does not ask for.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from tykpy.ipc.bodies.store import Body
from tykpy.ipc.text import bounded

SPLIT_ABOVE: Final = 16 * 1024
"""Bytes of a body from which on it is not copied into its frame, but travels beside it."""


MAX_METADATA: Final = 16 * 1024
"""Bytes of a request's meta. gRPC's own default for all of a call's headers is 8 KiB."""
MAX_ERROR: Final = 4096
MAX_META: Final = 1024
"""Characters of an error's message, and of each name in its `meta`."""


class Kind(IntEnum):
    """What a frame's body is."""

    OBJECT = 1
    """A serialized `coprocess.Object`, as the gateway sent it."""
    EVENT = 2
    """A serialized `coprocess.Event`; answered by an empty body (`EventReply` has no fields)."""
    OBJECT_MAP = 3
    """A map with the field names of `coprocess.Object`, encoded as MessagePack by the caller."""
    EVENT_MAP = 4
    """A map with the field names of `coprocess.Event`, likewise; answered by an empty body."""
    ERROR = 5
    """Body: `[Status, message]`."""


EVENT_KINDS: Final = frozenset({Kind.EVENT, Kind.EVENT_MAP})


class Status(IntEnum):
    """Why a dispatch failed, as workers and broker tell each other; every front end has its own code for each."""

    INVALID = 1
    """The object or event cannot be decoded, or says something impossible."""
    NOT_FOUND = 2
    """No such bundle or hook."""
    HOOK_FAILED = 3
    """The hook raised, returned something else than it must, or ended its process."""
    EXPIRED = 4
    """The deadline passed."""
    TOO_LARGE = 5
    """A message is above the limit."""
    OVERLOADED = 6
    """The queue is full, or the dispatch waited too long in it."""
    UNAVAILABLE = 7
    """The broker drains, or has no worker that can start."""
    CANCELLED = 8
    """The caller went away."""
    UNIMPLEMENTED = 9
    """No such method."""
    INTERNAL = 10
    """A fault of tykpy itself."""
    DENIED = 11
    """This peer may not connect."""


class Frame(NamedTuple):
    """One decoded frame."""

    kind: int
    meta: Any
    body: Any


_decode: Final = msgspec.msgpack.Decoder(Frame).decode
_MAX_KEPT: Final = 2
"""Fields of a request that can be large."""
_decode_answer: Final = msgspec.msgpack.Decoder(
    tuple[int, Annotated[tuple[tuple[int, int], ...], msgspec.Meta(max_length=_MAX_KEPT)] | None, bytes | None]
).decode
_decode_error: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw, tuple[int, str]]).decode
_pack: Final = msgspec.msgpack.Encoder().encode
"""A quarter and two thirds of what the msgpack library takes for a frame of 900 bytes."""


Packed: TypeAlias = tuple[bytes, Body | None]
"""An encoded frame, and the body that travels beside it: the frame has nil for its body then."""


Kept = tuple[tuple[int, int], ...]
"""Where in a dispatch's body, as start and end, fields lie that its answer has unchanged and does not carry."""


def pack_frame(kind: int, meta: object, body: Body) -> Packed:
    """Encode a frame; `meta` is a map of small extras, or None. A large or stored body travels beside it."""
    if type(body) is bytes and len(body) <= SPLIT_ABOVE:
        return _pack((kind, meta, body)), None
    return _pack((kind, meta, None)), body


def unpack_frame(packed: Packed) -> Frame:
    """Decode a frame.

    Raises ValueError where it is not one msgpack array of three.
    """
    head, body = packed
    try:
        frame = _decode(head)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a frame: {error}") from error
    return frame if body is None else frame._replace(body=body)


def unpack_answer(packed: Packed) -> tuple[int, Kept | None, bytes]:
    """Kind, what it has kept, and body of an answer frame, and nothing else: a list would take 60 times its length.

    Raises ValueError.
    """
    head, beside = packed
    try:
        kind, kept, within = _decode_answer(head)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an answer: {error}") from error
    if beside is None and within is not None:
        return kind, kept, within
    if within is None and isinstance(beside, bytes):
        return kind, kept, beside
    raise ValueError("an answer that has no body, or two")


def unpack_error(packed: Packed) -> tuple[int, str]:
    """Status and message of an error frame, likewise. Raises ValueError."""
    head, body = packed
    if body is not None:
        raise ValueError("an error whose body is not in its frame")
    try:
        _, _, failure = _decode_error(head)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an error: {error}") from error
    return failure


def pack_error(status: Status, message: str, meta: Mapping[str, object] | None = None) -> Packed:
    """Encode an error frame; `meta` names what failed, e.g. `{"hook": ..., "bundle": ...}`.

    Text that is not valid Unicode is escaped, and long text is cut: plugins and clients choose what is in it.
    """
    if meta is not None:
        meta = {key: bounded(str(value), MAX_META) for key, value in meta.items()}
    return _pack((Kind.ERROR, meta, (status, bounded(message, MAX_ERROR)))), None
