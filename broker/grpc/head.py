"""The headers of a gRPC request: method, timeout and compression, or the reason why it is refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.local_call import LocalCall
from tykpy.broker.grpc.wire import (
    ANSWER,
    ANSWER_WITH_ENCODINGS,
    GZIP,
    IDENTITY,
    GrpcCallError,
    pack_field,
    parse_timeout,
)
from tykpy.broker.http2.hpack.head_cache import STABLE, RequestHead
from tykpy.broker.http2.hpack.validate import Header
from tykpy.broker.http2.limits import Limits
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Stream
from tykpy.ipc.frame import MAX_METADATA

_CONTENT_TYPES: Final = frozenset((b"application/grpc", b"application/grpc+proto"))
_TIMEOUT: Final = b"grpc-timeout"
_NOT_ALONE: Final = frozenset((b"content-type", b"grpc-encoding"))
"""Fields that change more of a head than its timeout."""
_NO_METADATA: Final = STABLE | {_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of the table of services."""

    kind: int = 0
    """The `ipc.frame.Kind` to dispatch; 0 if the broker serves the method itself."""
    serve: Callable[[Sender, Stream], LocalCall] | None = None


@dataclass(frozen=True, slots=True)
class HttpRefusal:
    """The answer to a request that is not gRPC: plain HTTP, for the person who sent it."""

    status: bytes
    text: bytes


class GrpcHead(RequestHead):
    """The head of one call, shared by all calls with the same headers."""

    __slots__ = ("encoding", "error", "method", "plain_kind", "refusal", "template", "timeout_ns")

    def __init__(self) -> None:
        super().__init__()
        self.method = Method()
        self.timeout_ns: int | None = None
        self.encoding = IDENTITY
        self.template = ANSWER
        self.error: GrpcCallError | None = None
        self.refusal: HttpRefusal | None = None
        self.plain_kind = 0
        """The method's kind if the message can be dispatched as it comes, else 0."""

    def derive(self) -> "GrpcHead":
        """Set the attributes that follow from the others."""
        served_here = self.method.serve is not None
        self.answer_at_once = self.error is not None or served_here
        plain = not self.answer_at_once and self.refusal is None and self.encoding == IDENTITY
        self.plain_kind = self.method.kind if plain else 0
        return self

    def with_timeout(self, value: bytes) -> "GrpcHead":
        """Return a copy of this head with a timeout."""
        head = GrpcHead()
        head.content_length, head.size = self.content_length, self.size
        head.method, head.encoding, head.template = self.method, self.encoding, self.template
        head.error, head.refusal = self.error, self.refusal
        head.plain_kind, head.answer_at_once = self.plain_kind, self.answer_at_once
        head.take_timeout(value)
        return head

    def take_timeout(self, value: bytes) -> None:
        """Set the timeout from `grpc-timeout`; a malformed one becomes the head's error."""
        try:
            self.timeout_ns = parse_timeout(value)
        except GrpcCallError as error:
            self.error = self.error or error
            self.derive()


class GrpcHeadReader:
    """Reads heads, given the table of methods."""

    read_names = _NOT_ALONE | {_TIMEOUT}

    def __init__(self, methods: Mapping[bytes, Method], limits: Limits, denial: str = "") -> None:
        """`denial`: why the peer may not call; its calls are then answered PERMISSION_DENIED with this text."""
        self._methods = methods
        self._denial = denial
        self._max_list = limits.max_header_list

    def read_head(self, headers: list[Header], size: int) -> GrpcHead:
        """Return the head of a valid header list of `size` bytes."""
        fields = dict(headers)
        head = GrpcHead()
        head.refusal = _refusal(fields)
        if head.refusal is None:
            self._read_call(head, fields, size)
        return head.derive()

    def _read_call(self, head: GrpcHead, fields: dict[bytes, bytes], size: int) -> None:
        head.encoding = fields.get(b"grpc-encoding", IDENTITY)
        if head.encoding != IDENTITY:
            head.template = ANSWER_WITH_ENCODINGS
        head.method = self._methods.get(fields[b":path"], head.method)
        head.error = self._error(head, fields[b":path"], size)
        if _TIMEOUT in fields:
            head.take_timeout(fields[_TIMEOUT])

    def _error(self, head: GrpcHead, path: bytes, size: int) -> GrpcCallError | None:
        if self._denial:
            return GrpcCallError(GrpcCode.PERMISSION_DENIED, self._denial)
        if size > self._max_list:
            text = f"metadata of {size} bytes is larger than the limit of {self._max_list} bytes"
            return GrpcCallError(GrpcCode.RESOURCE_EXHAUSTED, text)
        if path not in self._methods:
            served = ", ".join(sorted(known.decode() for known in self._methods))
            return GrpcCallError(GrpcCode.UNIMPLEMENTED, f"unknown method {path.decode('latin-1')}; served: {served}")
        if head.encoding not in (IDENTITY, GZIP):
            text = f"grpc-encoding {head.encoding.decode('latin-1')} is not supported; supported: identity, gzip"
            return GrpcCallError(GrpcCode.UNIMPLEMENTED, text)
        return None

    def refine_head(self, head: RequestHead, headers: list[Header]) -> GrpcHead | None:
        """Return the head that results from these additional fields; None if they change more than the timeout."""
        assert isinstance(head, GrpcHead)
        timeout = None
        for name, value in headers:
            if name == _TIMEOUT:
                timeout = value
            elif name in _NOT_ALONE:
                return None
        return head if timeout is None or head.refusal is not None else head.with_timeout(timeout)

    def pack_metadata(self, headers: list[Header]) -> bytes | None:
        """Encode the call's metadata; leave out fields that would make it too large."""
        packed = b""
        for name, value in headers:
            field = b"" if name in _NO_METADATA else pack_field(name, value)
            packed += field if len(packed) + len(field) <= MAX_METADATA else b""
        return packed or None


def _refusal(fields: dict[bytes, bytes]) -> HttpRefusal | None:
    if fields[b":method"] != b"POST":
        return HttpRefusal(b"405", b"gRPC only: POST to /coprocess.Dispatcher/Dispatch\n")
    content_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type not in _CONTENT_TYPES:
        return HttpRefusal(b"415", b"gRPC only: content-type application/grpc or application/grpc+proto\n")
    return None
