"""gRPC over HTTP/2 on the wire: codes, timeouts, error messages, header blocks, compression.

The source is the gRPC project's PROTOCOL-HTTP2.md and statuscodes.md.
"""

import re
import zlib
from struct import Struct
from typing import Final

from hpack.table import HeaderTable

from tykpy.broker.codes import GrpcCode
from tykpy.broker.errors import BrokerError
from tykpy.broker.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, pack_head
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Stream
from tykpy.broker.protowire import pack_varint


class GrpcCallError(BrokerError):
    """A call that ended with a code other than OK."""

    def __init__(self, code: GrpcCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class GrpcTooLargeError(GrpcCallError):
    """A message above the limit; `head` is its beginning, decompressed, which may name the hook."""

    def __init__(self, message: str, head: bytes) -> None:
        super().__init__(GrpcCode.RESOURCE_EXHAUSTED, message)
        self.head = head


MESSAGE_PREFIX: Final = Struct(">BI")
"""What precedes a gRPC message: whether it is compressed, and its size in bytes."""
MESSAGE_PREFIX_SIZE: Final = MESSAGE_PREFIX.size
_HEAD_START: Final = 5
"""Bytes of an HTTP/2 frame head before the stream id."""
MAX_MESSAGE_BYTES: Final = 6 * 1024
"""Longest error message as sent, in bytes: above 8 KiB of headers, clients discard the whole answer with its status."""
_CUT: Final = b"..."
GZIP: Final = b"gzip"
IDENTITY: Final = b"identity"
ACCEPTED_ENCODINGS: Final = b"identity,gzip"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
MAX_RATIO: Final = 100
"""Most bytes that a compressed byte may become; of text and JSON it is 5 to 20, and of a bomb 1,000."""
RATIO_FREE_SIZE: Final = 4 * 1024 * 1024
"""Bytes that a message may become whatever the ratio: their decompression takes 30 ms of the event loop."""
HEAD_SIZE: Final = 1024
"""Bytes of a message's beginning that contain the hook's type and name, which come first."""
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_NS: Final = {
    b"H": 3_600_000_000_000,
    b"M": 60_000_000_000,
    b"S": 1_000_000_000,
    b"m": 1_000_000,
    b"u": 1_000,
    b"n": 1,
}


def parse_timeout(value: bytes) -> int:
    """Parse `grpc-timeout` into nanoseconds; raises GrpcCallError if it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise GrpcCallError(GrpcCode.INTERNAL, f"malformed grpc-timeout {value.decode('latin-1')!r}")
    return int(match[1]) * _UNIT_NS[match[2]]


def format_timeout(seconds: float) -> bytes:
    """Format a `grpc-timeout` of at most 8 digits, rounded up."""
    for unit, size in ((b"n", 1_000_000_000), (b"u", 1_000_000), (b"m", 1_000), (b"S", 1)):
        amount = max(1, -int(-seconds * size // 1))
        if amount < 100_000_000:
            return b"%d%b" % (amount, unit)
    return b"99999999S"


def percent_encode(message: str) -> bytes:
    """Encode an error's message as `grpc-message`: %XX for the percent sign and all but printable ASCII."""
    encoded = _encode_text(message[: MAX_MESSAGE_BYTES + 1])
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return encoded
    parts = []
    room = MAX_MESSAGE_BYTES - len(_CUT)
    for character in message:
        part = _encode_text(character)
        room -= len(part)
        if room < 0:
            break
        parts.append(part)
    return b"".join(parts) + _CUT


def _encode_text(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)


def percent_decode(message: bytes) -> str:
    """Decode a `grpc-message`; never fails, as the specification demands."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), message)
    return raw.decode("utf-8", "replace")


def decompress_head(data: bytes) -> bytes:
    """Decompress the beginning of a message; return nothing if it is not gzip."""
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(data, HEAD_SIZE)
    except zlib.error:
        return b""


def decompress(data: bytes, limit: int) -> bytes:
    """Decompress gzip; raises GrpcCallError for other data, GrpcTooLargeError above `limit` bytes and for a bomb."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    allowed = min(limit, max(RATIO_FREE_SIZE, len(data) * MAX_RATIO))
    try:
        message = inflater.decompress(data, allowed + 1)
    except zlib.error as error:
        raise GrpcCallError(GrpcCode.INTERNAL, f"message is not gzip: {error}") from error
    if len(message) > limit:
        text = f"the request has {len(data)} bytes, which are more than {limit} when decompressed"
        raise GrpcTooLargeError(text, message[:HEAD_SIZE])
    if len(message) > allowed:
        text = f"the request has {len(data)} bytes, which become more than {MAX_RATIO} times as many when decompressed"
        raise GrpcTooLargeError(text, message[:HEAD_SIZE])
    if not inflater.eof or inflater.unused_data:
        raise GrpcCallError(GrpcCode.INTERNAL, "message is not one gzip member")
    return message


# Header blocks. Nothing is indexed: a block has the same bytes for every peer and is prepared once.

_STATIC_NAMES: Final = {name: at for at, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_STATIC_FIELDS: Final = {field: at for at, field in enumerate(HeaderTable.STATIC_TABLE, 1)}


def pack_integer(value: int, prefix_bits: int, first: int) -> bytes:
    """Encode an HPACK integer (RFC 7541, section 5.1); `first` holds the bits before the prefix."""
    mask = (1 << prefix_bits) - 1
    if value < mask:
        return bytes((first | value,))
    # The rest is encoded as protobuf's integers are.
    return bytes((first | mask,)) + pack_varint(value - mask)


def pack_field(name: bytes, value: bytes) -> bytes:
    """Encode one header field, from the static table or as a literal, never indexed."""
    index = _STATIC_FIELDS.get((name, value))
    if index is not None:
        return pack_integer(index, 7, 0x80)
    index = _STATIC_NAMES.get(name)
    named = pack_integer(index, 4, 0) if index else b"\0" + pack_integer(len(name), 7, 0) + name
    return named + pack_integer(len(value), 7, 0) + value


def pack_fields(*fields: tuple[bytes, bytes]) -> bytes:
    """Encode a header block."""
    return b"".join(pack_field(name, value) for name, value in fields)


class AnswerTemplate:
    """A successful answer of one message, prepared except for the message: HEADERS, start of DATA, trailers."""

    __slots__ = ("_end", "_headers_start", "_start", "_trailers_start", "headers", "trailers")

    def __init__(self, headers: bytes, trailers: bytes) -> None:
        self.headers = headers
        self.trailers = trailers
        self._headers_start = pack_head(len(headers), HEADERS, END_HEADERS, 0)[:_HEAD_START]
        self._trailers_start = pack_head(len(trailers), HEADERS, END_HEADERS | END_STREAM, 0)[:_HEAD_START]
        self._start = Struct(f">5sI{len(headers)}sHBHIBI").pack
        self._end = Struct(f">5sI{len(trailers)}s").pack

    def send(self, sender: Sender, stream: Stream, message: bytes) -> None:
        """Answer a call with one message; raises FinishedStreamError where nothing can be sent any more."""
        size = len(message)
        length = size + MESSAGE_PREFIX_SIZE
        if not sender.fits(stream, length):
            sender.headers(stream, self.headers)
            sender.data(stream, MESSAGE_PREFIX.pack(0, size), message)
            sender.close(stream, self.trailers)
            return
        stream_id = stream.id
        before = self._start(
            self._headers_start, stream_id, self.headers, length >> 8, length & 0xFF, DATA, stream_id, 0, size
        )
        sender.send_whole(stream, length, before, message, self._end(self._trailers_start, stream_id, self.trailers))


_HEADERS: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_ENCODINGS: Final = (b"grpc-accept-encoding", ACCEPTED_ENCODINGS)

ANSWER: Final = AnswerTemplate(pack_fields(*_HEADERS), pack_fields((b"grpc-status", b"0")))
"""An answer of one message."""
ANSWER_WITH_ENCODINGS: Final = AnswerTemplate(pack_fields(*_HEADERS, _ENCODINGS), pack_fields((b"grpc-status", b"0")))
"""An answer of one message to a caller that compresses: it names the encodings we accept."""


def pack_status(code: GrpcCode, message: str) -> bytes:
    """Encode the trailers of a call."""
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", percent_encode(message)))
    return pack_fields(*fields)


def pack_trailers_only(code: GrpcCode, message: str) -> bytes:
    """Encode the header block of a call that fails before any message."""
    return ANSWER_WITH_ENCODINGS.headers + pack_status(code, message)
