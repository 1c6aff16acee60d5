"""Objects whose large body stays in the broker's store until a hook reads it.

Most hooks look at headers and set some. Copying the body into a message, encoding it and handing it back would be most
of what a large dispatch costs. Where no hook has read the body, the answer says that it is unchanged.
"""

import weakref
from collections.abc import Mapping
from typing import Final, NamedTuple

from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import Changes, LazyRequest
from tykpy.ipc.bodies.store import BorrowedBody
from tykpy.ipc.frame import Kind, Packed, pack_frame

LARGE_FIELD: Final = 16 * 1024
"""A field stays in the store if it is larger, in bytes: copying a smaller one costs no more than leaving it."""
_WINDOW: Final = 4096
"""Bytes read at a time to find fields: nearly always everything that precedes the body."""
_MAX_AROUND: Final = 64 * 1024
"""Bytes of an object beside its large fields; an object with more is read whole."""
_MAX_FIELDS: Final = 1024
"""Fields of a request; an object with more is read whole."""
_HOOK_TYPE: Final = 0x08
_HOOK_NAME: Final = 0x12
_REQUEST: Final = 0x1A
_BODY: Final = 0x22
_RAW_BODY: Final = 0x72
_LAST_FIELD: Final = 0x72
_BYTES: Final = 2
"""The wire type of strings, bytes and messages: all fields of a request have it."""
_WIRE_TYPE: Final = 7
_MORE: Final = 0x80
_MAX_LENGTH_BYTES: Final = 5


class _UnusualError(Exception):
    """The object is not encoded as a gateway does it: leave it to protobuf."""


class _Range(NamedTuple):
    """A range of a body, in bytes."""

    start: int
    end: int


class _Scan:
    """Reads tags and lengths of a body in the store."""

    def __init__(self, body: BorrowedBody) -> None:
        self._body = body
        self._start = 0
        self._window = body.read(0, _WINDOW)

    def byte(self, at: int) -> int:
        """Return the byte at a position."""
        if not self._start <= at < self._start + len(self._window):
            self._start, self._window = at, self._body.read(at, at + _WINDOW)
            if not self._window:
                raise _UnusualError
        return self._window[at - self._start]

    def length(self, at: int, limit: int) -> _Range:
        """Return the range of the value whose length is at a position; it ends at `limit` at most."""
        value = 0
        for shift in range(0, 7 * _MAX_LENGTH_BYTES, 7):
            byte = self.byte(at)
            at += 1
            value |= (byte & ~_MORE) << shift
            if byte < _MORE:
                if at + value > limit:
                    raise _UnusualError
                return _Range(at, at + value)
        raise _UnusualError


def _outline(body: BorrowedBody, larger_than: int) -> tuple[int, _Range, tuple[_Range, ...]]:
    """Return the end of the fields before the request, the request's message, and its large fields with tag and length.

    Raises _UnusualError if there are no large fields, or if it is not certain.
    """
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
    large = tuple(_large_fields(scan, request, larger_than))
    around = size - sum(end - start for start, end in large)
    if not large or around > _MAX_AROUND:
        raise _UnusualError
    return at, request, large


def _large_fields(scan: _Scan, request: _Range, larger_than: int) -> list[_Range]:
    large: list[_Range] = []
    seen: set[int] = set()
    at = request.start
    for _ in range(_MAX_FIELDS):
        if at == request.end:
            return large
        tag = scan.byte(at)
        if tag & _WIRE_TYPE != _BYTES or tag > _LAST_FIELD or tag in seen:
            raise _UnusualError
        value = scan.length(at + 1, request.end)
        if tag in (_BODY, _RAW_BODY):
            seen.add(tag)  # of two bodies the last one counts, so their order matters
            if value.end - value.start > larger_than:
                large.append(_Range(at, value.end))
        at = value.end
    raise _UnusualError


class BorrowedSubject:
    """An object in the broker's store, decoded except for the large fields of its request."""

    __slots__ = ("_body", "_changes", "_is_read", "_large", "_request", "message")

    def __init__(self, body: BorrowedBody, message: Object, large: tuple[_Range, ...]) -> None:
        self.message = message
        self._body = body
        self._large = large
        self._is_read = False
        self._changes = Changes()
        self._request: weakref.ref[LazyRequest] | None = None

    @classmethod
    def decode(cls, body: BorrowedBody, larger_than: int = LARGE_FIELD) -> "BorrowedSubject | None":
        """Decode everything but the large fields; return None if there are none, or it is not certain.

        Raises DecodeError.
        """
        try:
            before, request, large = _outline(body, larger_than)
        except _UnusualError:
            return None
        message = Object.FromString(body.read(0, before) + body.read(request.end, body.size))
        if message.HasField("request"):
            return None  # protobuf merges two requests, in their order
        at, parts = request.start, []
        for start, end in large:
            parts.append(body.read(at, start))
            at = end
        message.request.MergeFromString(b"".join((*parts, body.read(at, request.end))))
        return cls(body, message, large)

    def request(self) -> LazyRequest:
        """Return the request as a hook sees it."""
        request = self.message.request
        request.return_overrides.SetInParent()  # what every reply must have
        lazy = LazyRequest(request, self, self._changes)
        self._request = weakref.ref(lazy)
        return lazy

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that arrived."""
        return self.message.request.headers

    def read(self) -> bytes:
        """Return the large fields, encoded. Raises LookupError if the body has been given back."""
        missing = b"".join(self._body.read(start, end) for start, end in self._large)
        self._is_read = True
        return missing

    def answer(self, after: Object) -> Packed:
        """Return the answer frame."""
        request = self._request() if self._request is not None else None
        if request is not None:
            _ = request.object  # the plugin has kept the request, and its body will be gone later
        elif not self._is_read:
            self._changes.write_to(self.message.request)
        encoded = after.SerializeToString()
        if self._is_read or after is not self.message:
            return pack_frame(Kind.OBJECT, None, encoded)
        if len(encoded) + self._body.size > self._body.max_answer:
            # The answer may be too large: that is checked when it is published.
            after.request.MergeFromString(self.read())
            return pack_frame(Kind.OBJECT, None, after.SerializeToString())
        return pack_frame(Kind.OBJECT, self._large, encoded)
