"""The frames between broker and workers: msgpack arrays `[kind, meta, body]`, the only format that both share.

A request frame says what to run, an answer frame carries the result, an error frame says why there is none. Strings
and binary stay distinct (msgpack `str` and `bin`), integers and doubles keep their type.

The meta of a request is its gRPC metadata as an HPACK header block without table references, or nil: a worker decodes
it only if its hook asks for it. A request that is traced has a fourth element, see `Frame.trace`; the answer to a call
that is recorded has one, too, see `ipc.reads`.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from tykpy.ipc.bodies.store import Body
from tykpy.ipc.text import bounded

SPLIT_ABOVE: Final = 16 * 1024
"""Largest body that is copied into its frame, in bytes; a larger one travels beside it."""


MAX_METADATA: Final = 16 * 1024
"""Largest meta of a request, in bytes. gRPC's own default for all headers of a call is 8 KiB."""
MAX_ERROR: Final = 4096
MAX_META: Final = 1024
"""Longest message of an error, and longest name in its `meta`, in characters."""


class Kind(IntEnum):
    """Type of a frame's body."""

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
    """Why a dispatch failed; every front end maps each to a code of its protocol."""

    INVALID = 1
    """The object or event cannot be decoded, or contradicts itself."""
    NOT_FOUND = 2
    """No such bundle or hook."""
    HOOK_FAILED = 3
    """The hook raised, returned a wrong type, or ended its process."""
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
    trace: dict[str, str] | None = None
    """The context of the span that the worker's spans are children of (`traceparent`, `tracestate`)."""


_decode: Final = msgspec.msgpack.Decoder(Frame).decode
_MAX_UNCHANGED: Final = 2
"""Fields of a request that can be large: its body as text, and raw."""
_decode_answer: Final = msgspec.msgpack.Decoder(
    tuple[int, Annotated[tuple[tuple[int, int], ...], msgspec.Meta(max_length=_MAX_UNCHANGED)] | None, bytes | None]
).decode
_decode_error: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw, tuple[int, str]]).decode
FAULT: Final = "fault"
"""A key in the meta of an error frame: the class of an exception in tykpy's own code, except for lack of memory."""


class _ErrorMeta(msgspec.Struct):
    """What the broker reads of an error's meta; the rest is skipped without being built."""

    fault: str = ""


_decode_meta: Final = msgspec.msgpack.Decoder(tuple[int, _ErrorMeta | None, msgspec.Raw]).decode
_pack: Final = msgspec.msgpack.Encoder().encode
"""A quarter and two thirds of what the msgpack library takes for a frame of 900 bytes."""


Packed: TypeAlias = tuple[bytes, Body | None]
"""An encoded frame, and the body that travels beside it: the frame has nil for its body then."""


Unchanged = tuple[tuple[int, int], ...]
"""Ranges of the request's body (start, end) that the answer does not carry because the hook left them unchanged."""


def pack_frame(kind: int, meta: object, body: Body, trace: Mapping[str, str] | None = None) -> Packed:
    """Encode a frame; `meta` is a map of small extras, or None. A large or stored body travels beside it."""
    beside = None if type(body) is bytes and len(body) <= SPLIT_ABOVE else body
    inside = body if beside is None else None
    return _pack((kind, meta, inside) if trace is None else (kind, meta, inside, trace)), beside


def unpack_frame(packed: Packed) -> Frame:
    """Decode a frame.

    Raises ValueError unless it is one msgpack array of three, or of four with a trace.
    """
    head, body = packed
    try:
        frame = _decode(head)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a frame: {error}") from error
    return frame if body is None else frame._replace(body=body)


def unpack_answer(packed: Packed) -> tuple[int, Unchanged | None, bytes]:
    """Decode an answer frame into its kind, unchanged ranges and body.

    Only these types are built: a list of lists would take 60 times its length. Raises ValueError.
    """
    head, beside = packed
    try:
        kind, unchanged, within = _decode_answer(head)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an answer: {error}") from error
    if beside is None and within is not None:
        return kind, unchanged, within
    if within is None and isinstance(beside, bytes):
        return kind, unchanged, beside
    raise ValueError("an answer that has no body, or two")


def unpack_error(packed: Packed) -> tuple[int, str]:
    """Decode an error frame into its status and message. Raises ValueError."""
    head, body = packed
    if body is not None:
        raise ValueError("an error whose body is not in its frame")
    try:
        _, _, failure = _decode_error(head)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an error: {error}") from error
    return failure


def is_fault(packed: Packed) -> bool:
    """Return whether this is an error frame that says that tykpy's own code failed."""
    try:
        _, meta, _ = _decode_meta(packed[0])
    except (ValueError, RecursionError):
        return False
    return meta is not None and bool(meta.fault)


def pack_error(status: Status, message: str, meta: Mapping[str, object] | None = None) -> Packed:
    """Encode an error frame; `meta` names what failed, e.g. `{"hook": ..., "bundle": ...}`.

    Invalid Unicode is escaped and long text is cut: plugins and clients choose the text.
    """
    if meta is not None:
        meta = {key: bounded(str(value), MAX_META) for key, value in meta.items()}
    return _pack((Kind.ERROR, meta, (status, bounded(message, MAX_ERROR)))), None
