"""MessagePack-RPC on the wire, sans-IO: bytes in, messages out, and the bytes of answers.

The published specification: request `[0, id, method, params]`, answer `[1, id, error, result]`, notification
`[2, method, params]`. Params are not decoded here: only their boundaries are found, so that an object's bytes go to a
worker as they came.

An error is the string "STATUS: message", where STATUS is a name of `ipc.frame.Status`. A map would be richer, but the
stock client of Go (net/rpc on github.com/ugorji/go/codec's MsgpackSpecRpc) decodes this element into a Go string:
anything else is a decoding error that ends every call of its connection.
"""

from typing import Annotated, Any, ClassVar, Final, NamedTuple, TypeAlias

import msgpack
import msgspec

from tykpy.broker.errors import WireError
from tykpy.ipc.frame import Kind, Status

REQUEST: Final = 0
ANSWER: Final = 1
NOTIFICATION: Final = 2

EVENT_METHOD: Final = "dispatch_event"
EMPTY_MAP: Final = b"\x80"
MAX_ID: Final = 0xFFFF_FFFF
"""Largest message id: the specification says unsigned 32-bit integer."""
MAX_PARAMS: Final = 16
ENVELOPE_SIZE: Final = 1024
"""Bytes that a message may have in addition to its object or event: array headers, id, method, options."""
MAX_DECODED: Final = 64 * 1024
"""Bytes of params that the broker itself decodes: options and numbers. In memory they can take 80 times as much."""

_HEAD_SIZE: Final = 1024
"""Bytes of a message's beginning that tell which hook it is for, if the peer sends the name before the body."""
_ID_WITHIN: Final = 32
"""Bytes of a message within which its id ends: an array header, and two integers of 9 bytes at most."""
_SCANNER_BUFFER: Final = 4096
"""Bytes that a scanner allocates at first; msgpack's own default is 1 MiB for every connection."""
_BIG_MESSAGE: Final = 256 * 1024
"""Bytes of a message after which the scanner's grown buffer is freed."""
_UNLIMITED: Final = 0
_REQUEST_FIELDS: Final = 4
_ANSWER_HEAD: Final = b"\x94\x01"
_NIL: Final = b"\xc0"
_MAP_HEADS: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})

_pack: Final = msgpack.Packer(use_bin_type=True).pack
_skip_one: Final = msgspec.msgpack.Decoder(msgspec.Raw).decode
"""Steps over one value; refuses further bytes behind it."""


class RpcTooLargeError(WireError):
    """A message above the limit; `head` is its beginning, which may name the hook."""

    def __init__(self, message: str, call_id: int | None, head: bytes) -> None:
        super().__init__(Status.TOO_LARGE, message, call_id)
        self.head = head


class Message(NamedTuple):
    """One request, or one notification if `id` is None."""

    id: int | None
    method: str
    params: list[bytes]
    """Each param as the peer encoded it."""


_Params: TypeAlias = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_PARAMS)]


class _Request(msgspec.Struct, array_like=True, tag=REQUEST, forbid_unknown_fields=True):
    id: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
    method: str
    params: _Params


class _Notification(msgspec.Struct, array_like=True, tag=NOTIFICATION, forbid_unknown_fields=True):
    id: ClassVar[None] = None
    method: str
    params: _Params


_decode_message: Final = msgspec.msgpack.Decoder(_Request | _Notification).decode


def _new_scanner() -> msgpack.Unpacker:
    return msgpack.Unpacker(read_size=_SCANNER_BUFFER, max_buffer_size=_UNLIMITED, strict_map_key=False)


class RpcMessageReader:
    """Splits a byte stream into messages; keeps at most one incomplete message and what was fed after it."""

    def __init__(self, max_message: int) -> None:
        self._limit = max_message + ENVELOPE_SIZE
        self._scanner = _new_scanner()
        self._scanned = 0
        """Bytes that the scanner had consumed where `_data` begins."""
        self._data: bytes | bytearray = b""
        """As it came, as long as that is one piece: nearly always it is one whole message."""

    @property
    def pending(self) -> int:
        """Bytes that were fed and are in no message yet."""
        return len(self._data)

    @property
    def unfinished_id(self) -> int | None:
        """The id of the request that the pending bytes begin with; None if it cannot be read."""
        return _id_of(self._data)

    def feed(self, data: bytes) -> None:
        """Take bytes as they come from the peer."""
        self._scanner.feed(data)
        if self._data:
            self._own_data().extend(data)
        else:
            self._data = data

    def next(self) -> Message | None:
        """Return the next complete message, or None until more is fed.

        Raises WireError for bytes that are no message, and RpcTooLargeError for a message above the limit; nothing can
        be read after that.
        """
        if not self._data:
            return None
        try:
            self._scanner.skip()
        except msgpack.OutOfData:
            if len(self._data) > self._limit:
                raise self._too_large(f"more than {self._limit - ENVELOPE_SIZE}") from None
            return None
        except ValueError as error:
            raise WireError(Status.INVALID, f"not MessagePack: {str(error) or type(error).__name__}") from error
        end = self._scanner.tell()
        size = end - self._scanned
        if size > self._limit:
            raise self._too_large(f"{size}")
        self._scanned = end
        message = parse(self._take(size))
        if size > _BIG_MESSAGE and not self._data:
            self._scanner, self._scanned = _new_scanner(), 0
        return message

    def _take(self, size: int) -> bytes | bytearray:
        if size == len(self._data):
            taken, self._data = self._data, b""
            return taken
        data = self._own_data()
        taken = data[:size]
        del data[:size]
        return taken

    def _own_data(self) -> bytearray:
        """Make the data a bytearray, to which bytes are added, and from whose start they are removed, at no cost."""
        if not isinstance(self._data, bytearray):
            self._data = bytearray(self._data)
        return self._data

    def _too_large(self, size: str) -> WireError:
        return RpcTooLargeError(f"the request has {size} bytes", _id_of(self._data), bytes(self._data[:_HEAD_SIZE]))


def parse(data: bytes | bytearray) -> Message:
    """Parse the envelope of one complete MessagePack value.

    Raises WireError if it is neither a request nor a notification; the error carries the id if there is one.
    """
    try:
        message = _decode_message(data)
    except msgspec.DecodeError as error:
        text = f"a message is [0, id, method, params] or [2, method, params]: {error}"
        raise WireError(Status.INVALID, text, _id_of(data)) from error
    except RecursionError:
        # The two libraries differ in how deeply they let values nest, near a thousand levels.
        raise WireError(Status.INVALID, "not MessagePack: nested too deeply") from None
    return Message(message.id, message.method, list(map(bytes, message.params)))


def _id_of(data: bytes | bytearray) -> int | None:
    """Return the id of a request that may be incomplete or invalid after it; None if there is none."""
    scanner = _new_scanner()
    scanner.feed(data[:_ID_WITHIN])
    try:
        scanner.read_array_header()
        kind, call_id = scanner.unpack(), scanner.unpack()
    except (msgpack.UnpackException, ValueError, TypeError):
        return None
    is_request = type(kind) is int and kind == REQUEST
    return call_id if is_request and type(call_id) is int and 0 <= call_id <= MAX_ID else None


def pack_result(call_id: int, packed: bytes) -> bytes:
    """Encode the answer whose result is `packed`, one encoded value."""
    return b"".join((_ANSWER_HEAD, pack_value(call_id), _NIL, packed))


def pack_error(call_id: int | None, status: Status, message: str) -> bytes:
    """Encode the answer that carries an error; the id is None if the peer's could not be read."""
    sendable = message.encode("utf-8", "backslashreplace").decode()
    return pack_value([ANSWER, call_id, f"{status.name}: {sendable}", None])


def pack_value(value: object) -> bytes:
    """Encode one value; raises TypeError, ValueError or OverflowError if MessagePack cannot express it."""
    packed: bytes = _pack(value)
    return packed


def unpack_values(params: list[bytes]) -> list[Any]:
    """Decode encoded values.

    Raises ValueError if they are longer than MAX_DECODED, a string is not UTF-8, a map's key cannot be one, or an
    extension is invalid.
    """
    size = sum(map(len, params))
    if size > MAX_DECODED:
        raise ValueError(f"{size} bytes, the limit is {MAX_DECODED} bytes")
    try:
        return [msgpack.unpackb(packed, strict_map_key=False) for packed in params]
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
