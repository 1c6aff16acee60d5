"""MessagePack-RPC on the wire, sans-IO: bytes in, messages out, and the bytes of answers.

The published specification: request `[0, id, method, params]`, answer `[1, id, error, result]`, notification
`[2, method, params]`. Params are not decoded here: only their boundaries are found, so that an object's bytes go to a
worker as they came.

An error is the string "STATUS: message", where STATUS is a name of `ipc.frame.Status`. A map would be richer, but the
stock client of Go (net/rpc on github.com/ugorji/go/codec's MsgpackSpecRpc) decodes this element into a Go string:
anything else is a decoding error that ends every call of its connection.
"""

from typing import Any, Final, NamedTuple

import msgpack
import msgspec

from tykpy.broker.errors import WireError
from tykpy.ipc.frame import Kind, Status

REQUEST: Final = 0
ANSWER: Final = 1
NOTIFICATION: Final = 2

EVENT_METHOD: Final = "dispatch_event"
NIL: Final = b"\xc0"
EMPTY_MAP: Final = b"\x80"
MAX_ID: Final = 0xFFFF_FFFF
"""Largest message id: the specification says unsigned 32-bit integer."""
ENVELOPE_SIZE: Final = 1024
"""Bytes that a message may have in addition to its object or event: array headers, id, method, options."""
MAX_DECODED: Final = 64 * 1024
"""Bytes of params that the broker itself decodes: options and numbers. In memory they can take 80 times as much."""

_HEAD_SIZE: Final = 1024
"""Bytes of a message's beginning that tell which hook it is for, if the peer sends the name before the body."""
_ID_WITHIN: Final = 16
"""Bytes of a message within which its id ends: two array headers, kind, and an integer of 9 bytes at most."""
_SCANNER_BUFFER: Final = 4096
"""Bytes that a scanner allocates at first; msgpack's own default is 1 MiB for every connection."""
_BIG_MESSAGE: Final = 256 * 1024
"""Bytes of a message after which the scanner's grown buffer is freed."""
_UNLIMITED: Final = 0
_REQUEST_FIELDS: Final = 4
_REQUEST_KIND: Final = b"\x00"
_NOTIFICATION_KIND: Final = b"\x02"
_NO_MESSAGE: Final = "a message is [0, id, method, params] or [2, method, params]"
_FIXINT_END: Final = 0x7F
_ANSWER_HEAD: Final = b"\x94\x01"
_MAP_HEADS: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_FIXARRAY: Final = 0x90
_FIXARRAY_END: Final = 0x9F
_FIXSTR: Final = 0xA0
_FIXSTR_END: Final = 0xBF
_STRING_SIZES: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_SIZES: Final = {0xDC: 2, 0xDD: 4}

_pack: Final = msgpack.Packer(use_bin_type=True).pack
_Raw = msgspec.Raw
_skip_one: Final = msgspec.msgpack.Decoder(_Raw).decode
"""Steps over one value; refuses further bytes behind it."""
_split_pair: Final = msgspec.msgpack.Decoder(tuple[_Raw, _Raw]).decode
_split_notification: Final = msgspec.msgpack.Decoder(tuple[_Raw, _Raw, _Raw]).decode
_split_request: Final = msgspec.msgpack.Decoder(tuple[_Raw, _Raw, _Raw, _Raw]).decode


class RpcTooLargeError(WireError):
    """A message above the limit; `head` is its beginning, which may name the hook."""

    def __init__(self, message: str, call_id: bytes, head: bytes) -> None:
        super().__init__(Status.TOO_LARGE, message, call_id)
        self.head = head


class Message(NamedTuple):
    """One request, or one notification if `id` is empty."""

    id: bytes
    """The message id as the peer encoded it, to be sent back unchanged."""
    method: bytes
    """UTF-8, not checked: it is only looked up."""
    arity: int
    """Number of params."""
    params: bytes
    """The encoded params one after the other, without the array's header."""


def _new_scanner() -> msgpack.Unpacker:
    return msgpack.Unpacker(read_size=_SCANNER_BUFFER, max_buffer_size=_UNLIMITED, strict_map_key=False)


class RpcMessageReader:
    """Splits a byte stream into messages; keeps at most one incomplete message and what was fed after it."""

    def __init__(self, max_message: int) -> None:
        self._limit = max_message + ENVELOPE_SIZE
        self._scanner = _new_scanner()
        self._scanned = 0
        """Bytes that the scanner had consumed where `_data` begins."""
        self._data = b""
        self._more: list[bytes] = []
        self._fed = 0
        self._start = 0

    @property
    def pending(self) -> int:
        """Bytes that were fed and are in no message yet."""
        return self._fed - self._start

    @property
    def unfinished_id(self) -> bytes:
        """The id of the request that the pending bytes begin with; empty if it cannot be read."""
        return _id_of(self._data[self._start : self._start + _ID_WITHIN])

    def feed(self, data: bytes) -> None:
        """Take bytes as they come from the peer."""
        self._scanner.feed(data)
        if self._start:
            self._forget_consumed()
        self._fed += len(data)
        if self._data:
            self._more.append(data)
        else:
            self._data = data

    def next(self) -> Message | None:
        """Return the next complete message, or None until more is fed.

        Raises WireError for bytes that are no message, and RpcTooLargeError for a message above the limit; nothing can
        be read after that.
        """
        start = self._start
        if start == self._fed:
            return None
        try:
            self._scanner.skip()
        except msgpack.OutOfData:
            if self._fed - start > self._limit:
                raise self._too_large(f"more than {self._limit - ENVELOPE_SIZE}") from None
            return None
        except ValueError as error:
            raise WireError(Status.INVALID, f"not MessagePack: {str(error) or type(error).__name__}") from error
        end = self._scanner.tell() - self._scanned
        if end - start > self._limit:
            raise self._too_large(f"{end - start}")
        if self._more:
            self._join()
        data = self._data
        if end == self._fed:
            self._reset(end)
        else:
            self._start = end
        try:
            return parse(data[start:end])
        except RecursionError:
            # The two libraries differ in how deeply they let values nest, near a thousand levels.
            raise WireError(Status.INVALID, "not MessagePack: nested too deeply") from None

    def _forget_consumed(self) -> None:
        start, self._start = self._start, 0
        self._data = self._data[start:]
        self._scanned += start
        self._fed -= start

    def _join(self) -> None:
        self._data = b"".join((self._data, *self._more))
        self._more.clear()

    def _reset(self, end: int) -> None:
        if end > _BIG_MESSAGE:
            self._scanner = _new_scanner()
        self._scanned = self._scanner.tell()
        self._data = b""
        self._fed = self._start = 0

    def _too_large(self, size: str) -> WireError:
        self._join()
        head = self._data[self._start : self._start + _HEAD_SIZE]
        return RpcTooLargeError(f"the request has {size} bytes", _id_of(head), head)


def parse(data: bytes) -> Message:
    """Parse the envelope of one complete MessagePack value.

    Raises WireError if it is neither a request nor a notification; the error carries the id if there is one.
    """
    try:
        kind, raw_id, method, params = _split_request(data)
    except msgspec.ValidationError:
        return _parse_notification(data)
    if bytes(kind) != _REQUEST_KIND:
        raise WireError(Status.INVALID, _NO_MESSAGE, _id_of(data))
    call_id = bytes(raw_id)
    if call_id[0] > _FIXINT_END and not _is_id(call_id):
        raise WireError(Status.INVALID, "the message id is not an unsigned 32-bit integer")
    return _message(data, call_id, bytes(method), len(params))


def _parse_notification(data: bytes) -> Message:
    _array(data, 0, "a message is an array")
    try:
        kind, method, params = _split_notification(data)
    except msgspec.ValidationError:
        kind = _Raw()
    if bytes(kind) != _NOTIFICATION_KIND:
        raise WireError(Status.INVALID, _NO_MESSAGE, _id_of(data))
    return _message(data, b"", bytes(method), len(params))


def _message(data: bytes, call_id: bytes, method: bytes, size: int) -> Message:
    """Make a message of an encoded method and the last `size` bytes of `data`, its params."""
    head = method[0]
    if _FIXSTR <= head <= _FIXSTR_END:
        name = method[1:]
    elif head in _STRING_SIZES:
        name = method[1 + _STRING_SIZES[head] :]
    else:
        raise WireError(Status.INVALID, "the method is not a string", call_id)
    arity, begin = _array(data, len(data) - size, "params are an array", call_id)
    return Message(call_id, name, arity, data[begin:])


def _array(data: bytes, at: int, expected: str, call_id: bytes = b"") -> tuple[int, int]:
    """Return how many elements the array at `at` has, and where the first one begins; raises WireError."""
    head = data[at]
    if _FIXARRAY <= head <= _FIXARRAY_END:
        return head & 0x0F, at + 1
    if head not in _ARRAY_SIZES:
        raise WireError(Status.INVALID, f"{expected}, not what begins with byte 0x{head:02x}", call_id)
    end = at + 1 + _ARRAY_SIZES[head]
    return int.from_bytes(data[at + 1 : end], "big"), end


def _is_id(call_id: bytes) -> bool:
    value = msgpack.unpackb(call_id, strict_map_key=False) if len(call_id) <= _ID_WITHIN else None
    return type(value) is int and 0 <= value <= MAX_ID


def _id_of(data: bytes) -> bytes:
    """Return the id of a request that may be incomplete or invalid after it; empty if there is none."""
    scanner = _new_scanner()
    scanner.feed(data[:_ID_WITHIN])
    try:
        scanner.read_array_header()
        kind, begin = scanner.unpack(), scanner.tell()
        scanner.skip()
    except (msgpack.UnpackException, ValueError):
        return b""
    call_id = data[begin : scanner.tell()]
    return call_id if type(kind) is int and kind == REQUEST and _is_id(call_id) else b""


def pack_result(call_id: bytes, packed: bytes) -> bytes:
    """Encode the answer whose result is `packed`, one encoded value."""
    return b"".join((_ANSWER_HEAD, call_id, NIL, packed))


def pack_error(call_id: bytes, status: Status, message: str) -> bytes:
    """Encode the answer that carries an error; an empty id becomes nil: the peer's id could not be read."""
    sendable = message.encode("utf-8", "backslashreplace").decode()
    text: bytes = _pack(f"{status.name}: {sendable}")
    return b"".join((_ANSWER_HEAD, call_id or NIL, text, NIL))


def pack_value(value: object) -> bytes:
    """Encode one value; raises TypeError, ValueError or OverflowError if MessagePack cannot express it."""
    packed: bytes = _pack(value)
    return packed


def unpack_values(packed: bytes, count: int) -> list[Any]:
    """Decode several encoded values.

    Raises ValueError if they are longer than MAX_DECODED, a string is not UTF-8, a map's key cannot be one, or an
    extension is invalid.
    """
    if len(packed) > MAX_DECODED:
        raise ValueError(f"{len(packed)} bytes, the limit is {MAX_DECODED} bytes")
    scanner = _new_scanner()
    scanner.feed(packed)
    try:
        return [scanner.unpack() for _ in range(count)]
    except (TypeError, msgpack.UnpackException) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def peek_call(head: bytes) -> tuple[Kind, str]:
    """Return what a call carries and its hook's name, read from its beginning; the name is empty if it is not there."""
    values = _new_scanner()
    values.feed(head)
    try:
        if values.read_array_header() == _REQUEST_FIELDS:
            values.skip()
        values.skip()
        if values.unpack() == EVENT_METHOD:
            return Kind.EVENT_MAP, ""
        values.read_array_header()
        for _ in range(values.read_map_header()):
            if values.unpack() == "hook_name":
                return Kind.OBJECT_MAP, str(values.unpack())
            values.skip()
    except (msgpack.UnpackException, ValueError, TypeError):
        pass
    return Kind.OBJECT_MAP, ""


def split_pair(params: bytes) -> tuple[bytes, bytes]:
    """Split two encoded values."""
    first, second = _split_pair(b"\x92" + params)
    return bytes(first), bytes(second)


def is_map(packed: bytes) -> bool:
    """Return whether an encoded value is a map."""
    return packed[0] in _MAP_HEADS


def is_one_value(packed: bytes) -> bool:
    """Return whether bytes are one encoded value and nothing else, so that they can be put into an answer."""
    try:
        _skip_one(packed)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
