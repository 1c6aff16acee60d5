"""An object whose request has a large body, as long as nobody has asked for that.

Most hooks look at headers and set some. The body stays in the broker's store meanwhile, and the answer says that it is
as it came: copying it into a message, encoding it and handing it back is most of what a large dispatch costs. The
message is filled when `request.object` is first used; from then on the request is an ordinary one.
"""

import weakref
from typing import Final, NamedTuple

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tykpy.ipc.bodies.store import LentBody
from tykpy.ipc.frame import Kind, Packed, pack_frame
from tykpy.workers.objects.lazy import Notes, UnreadRequest, do_once, one_turn

LEFT_ABOVE: Final = 16 * 1024
"""Bytes of a field from which on it stays in the store: below, to leave it costs as much as to copy it."""
_WINDOW: Final = 4096
"""Bytes that are read at a time to find fields: nearly always all that comes before the body."""
_MOST_AROUND: Final = 64 * 1024
"""Bytes of an object beside its request's body; with more it is read whole."""
_MOST_FIELDS: Final = 1024
"""Of a request, before its body; likewise."""
_HOOK_TYPE: Final = 0x08
_HOOK_NAME: Final = 0x12
_REQUEST: Final = 0x1A
_BODY: Final = 0x22
_RAW_BODY: Final = 0x72
_LAST_FIELD: Final = 0x72
_BYTES: Final = 2
"""A field's wire type: all that a request has."""
_WIRE_TYPE: Final = 7
_MORE: Final = 0x80
_MOST_LENGTH_BYTES: Final = 5


class _UnusualError(Exception):
    """Not as a gateway writes objects: protobuf shall say what it is."""


class _Range(NamedTuple):
    """Where something lies in a body."""

    start: int
    end: int


class _Outline(NamedTuple):
    """Where things lie in an object."""

    request: _Range
    """Its message, without tag and length; what comes before them ends at `before`."""
    before: int
    left: tuple[_Range, ...]
    """Large fields of the request, with tag and length."""


class _Scan:
    """Reads tags and lengths of a body that is not here."""

    def __init__(self, body: LentBody) -> None:
        self._body = body
        self._start = 0
        self._window = body.read(0, _WINDOW)

    def byte(self, at: int) -> int:
        """The byte there."""
        if not self._start <= at < self._start + len(self._window):
            self._start, self._window = at, self._body.read(at, at + _WINDOW)
            if not self._window:
                raise _UnusualError
        return self._window[at - self._start]

    def length(self, at: int, limit: int) -> _Range:
        """The value whose length is there, and that ends at `limit` at most."""
        value = 0
        for shift in range(0, 7 * _MOST_LENGTH_BYTES, 7):
            byte = self.byte(at)
            at += 1
            value |= (byte & ~_MORE) << shift
            if byte < _MORE:
                if at + value > limit:
                    raise _UnusualError
                return _Range(at, at + value)
        raise _UnusualError


def _outline(body: LentBody, left_above: int) -> _Outline:
    """Find the large fields of a request; raises _UnusualError where there are none, or one cannot be sure."""
    scan, size = _Scan(body), body.size
    at = 0
    while (tag := scan.byte(at)) != _REQUEST:
        if tag == _HOOK_TYPE and scan.byte(at + 1) < _MORE:
            at += 2
        elif tag == _HOOK_NAME:
            at = scan.length(at + 1, size).end
        else:
            raise _UnusualError
    request = scan.length(at + 1, size)
    left = tuple(_large_fields(scan, request, left_above))
    around = size - sum(end - start for start, end in left)
    if not left or around > _MOST_AROUND:
        raise _UnusualError
    return _Outline(request, at, left)


def _large_fields(scan: _Scan, request: _Range, left_above: int) -> list[_Range]:
    left: list[_Range] = []
    seen: set[int] = set()
    at = request.start
    for _ in range(_MOST_FIELDS):
        if at == request.end:
            return left
        tag = scan.byte(at)
        if tag & _WIRE_TYPE != _BYTES or tag > _LAST_FIELD or tag in seen:
            raise _UnusualError
        value = scan.length(at + 1, request.end)
        if tag in (_BODY, _RAW_BODY):
            seen.add(tag)  # of two bodies the last counts: then order matters
            if value.end - value.start > left_above:
                left.append(_Range(at, value.end))
        at = value.end
    raise _UnusualError


class LentObject:
    """One object in the broker's store, decoded but for the large fields of its request."""

    __slots__ = ("_left", "_lent", "_notes", "_request", "_unfilled", "subject")

    def __init__(self, body: LentBody, subject: Object, left: tuple[_Range, ...]) -> None:
        self.subject = subject
        """What the hook is to have, but for what was left."""
        self._lent = body
        self._left = left
        self._unfilled = one_turn()
        self._notes: Notes | None = None
        """What the hook has done to the request and is not in the message yet."""
        self._request: weakref.ref[TykCoProcessRequest] | None = None

    @classmethod
    def decode(cls, body: LentBody, left_above: int = LEFT_ABOVE) -> "LentObject | None":
        """Decode what there is beside large fields; None where there are none, or one cannot be sure.

        Raises DecodeError.
        """
        try:
            request, before, left = _outline(body, left_above)
        except _UnusualError:
            return None
        subject = Object.FromString(body.read(0, before) + body.read(request.end, body.size))
        if subject.HasField("request"):
            return None  # two of them: protobuf makes one of both, in their order
        at, parts = request.start, []
        for start, end in left:
            parts.append(body.read(at, start))
            at = end
        subject.request.MergeFromString(b"".join((*parts, body.read(at, request.end))))
        return cls(body, subject, left)

    @property
    def message(self) -> Object:
        """The whole object."""
        self._fill()
        return self.subject

    def request(self) -> TykCoProcessRequest:
        """The request as a hook sees it; to be called once."""
        self.subject.request.return_overrides.SetInParent()  # as notes need it
        self._notes = Notes(self.subject)
        request = UnreadRequest(self._notes, self._read)
        self._request = weakref.ref(request)
        return request

    def answer(self, after: Object) -> Packed:
        """The answer frame for what a hook made of the subject, or for another object; to be called once."""
        request = self._request() if self._request is not None else None
        if request is not None:
            _ = request.object  # somebody has kept it: its body will not be there later
        self._write_notes()
        left = self._left
        encoded = after.SerializeToString()
        if after is not self.subject or not left:
            return pack_frame(Kind.OBJECT, None, encoded)
        if len(encoded) + self._lent.size > self._lent.max_answer:
            # Perhaps it is too large: whoever publishes it says so.
            return pack_frame(Kind.OBJECT, None, self.message.SerializeToString())
        return pack_frame(Kind.OBJECT, left, encoded)

    def _read(self) -> MiniRequestObject:
        self._fill()
        self._write_notes()
        return self.subject.request

    def _fill(self) -> None:
        """Put in what was left, once. Raises LookupError where it has been given back."""
        if self._left:
            left = b"".join(self._lent.read(start, end) for start, end in self._left)
            do_once(self._unfilled, self.subject.request.MergeFromString, left)
            self._left = ()

    def _write_notes(self) -> None:
        if self._notes is not None:
            self._notes.read()
