"""Check and decode what a worker answered, as untrusted input: plugin code shares its memory."""

from typing import Final

from tykpy.broker.errors import DispatchError
from tykpy.broker.protowire import MAX_FIELDS, ProtobufError, WireType, pack_varint, read_length, read_tag, skip_value
from tykpy.ipc.bodies.store import Body, StoredBody
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.frame import Kind, Status, Unchanged, unpack_answer, unpack_error

REQUEST_FIELD: Final = 3
"""`coprocess.Object.request`"""
_NOT_RUN: Final = frozenset({Status.INVALID, Status.NOT_FOUND})
_REQUEST: Final = pack_varint(REQUEST_FIELD << 3 | WireType.BYTES)


def body_of(answer: Answer, kind: int, asked: Body = b"") -> bytes:
    """Return the body of the answer to a dispatch of this kind with the body `asked`.

    Raises DispatchError if the worker reports an error, or its answer is invalid.
    """
    try:
        if answer.is_error:
            status, message = unpack_error(answer.payload)
            raise DispatchError(Status(status), message)
        found, unchanged, body = unpack_answer(answer.payload)
    except ValueError as error:
        raise DispatchError(Status.INTERNAL, f"the worker's answer does not decode: {error}") from error
    if found != kind:
        raise DispatchError(Status.INTERNAL, f"the worker answered with kind {found} where {kind} was asked")
    return body if unchanged is None else _put_back(body, unchanged, kind, asked)


def was_run(answer: Answer) -> bool:
    """Return whether the worker says that it ran the hook: not if it found none or the deadline had passed."""
    if not answer.is_error:
        return True
    try:
        return bool(answer.handler_ns) and unpack_error(answer.payload)[0] not in _NOT_RUN
    except ValueError:
        return False


def _put_back(body: bytes, unchanged: Unchanged, kind: int, asked: Body) -> bytes:
    """Append to the answer's request the fields that the hook has not changed, from the body that was asked."""
    if kind != Kind.OBJECT or not isinstance(asked, StoredBody):
        raise DispatchError(Status.INTERNAL, "the worker's answer refers to a body that is not in the store")
    if not all(0 <= start < end <= asked.size for start, end in unchanged):
        raise DispatchError(
            Status.INTERNAL, f"the worker's answer refers to {unchanged} of a body of {asked.size} bytes"
        )
    try:
        at, start, end = _find_request(body)
    except ProtobufError as error:
        raise DispatchError(Status.INTERNAL, f"the worker's answer is no Object: {error}") from error
    size = end - start + sum(stop - begin for begin, stop in unchanged)
    whole = asked.view()
    pieces = [whole[begin:stop] for begin, stop in unchanged]
    return b"".join((body[:at], _REQUEST, pack_varint(size), body[start:end], *pieces, body[end:]))


def _find_request(body: bytes) -> tuple[int, int, int]:
    """Find the request's tag, and where its message starts and ends; all at the end of the body if there is none."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at >= len(body):
            break
        number, wire_type, after = read_tag(body, at)
        if number == REQUEST_FIELD and wire_type == WireType.BYTES:
            return at, *read_length(body, after)
        at = skip_value(body, after, number, wire_type)
    if at < len(body):
        raise ProtobufError(f"more than {MAX_FIELDS} fields before its request")
    return at, at, at
