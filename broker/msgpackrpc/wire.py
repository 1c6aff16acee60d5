"""MessagePack-RPC on the wire, sans-IO: bytes in, messages out, and the bytes of answers.

The published spec: request `[0, id, method, params]`, answer `[1, id, error, result]`, notification
`[2, method, params]`. What a call carries is never decoded here: only its boundaries are found, so that an object's
bytes go to a worker as they came.

An error is the string "STATUS: message", STATUS a name of `ipc.frame.Status`. A map would be richer, but the stock
client of Go (net/rpc on github.com/ugorji/go/codec's MsgpackSpecRpc) decodes this element into a Go string: anything
else is a decoding error that ends every call of its connection.
"""

from collections.abc import Callable
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
"""The spec's message id is an unsigned 32-bit integer."""
ENVELOPE_SIZE: Final = 1024
"""Bytes a message may have above the limit of what it carries: array headers, id, method, options."""

HEAD_SIZE: Final = 1024
"""Bytes of a message's beginning that tell which hook it is for, if the peer sends the name before the body."""
_SCANNER_BUFFER: Final = 4096
"""Bytes a scanner allocates at first; msgpack's own default is 1 MiB for every connection."""
_BIG_MESSAGE: Final = 256 * 1024
"""Bytes of a message after which the scanner's grown buffer is given back."""
_MAX_REMEMBERED_BYTES: Final = 64
_UNLIMITED: Final = 0
_REQUEST_FIELDS: Final = 4
"""Of a request; a notification has no id."""
_ID_WITHIN: Final = 16
"""Bytes of a message within which its id ends: two array headers, kind, and an integer of 9 bytes at most."""
_NEVER_USED: Final = b"\xc1"
"""The byte that begins nothing in MessagePack."""
_MAP_HEADS: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_FIXARRAY: Final = 0x90
_FIXARRAY_END: Final = 0x9F
_FIXSTR: Final = 0xA0
_FIXSTR_END: Final = 0xBF
_INTEGER_SIZES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_STRING_SIZES: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_SIZES: Final = {0xDC: 2, 0xDD: 4}
_SIGNED: Final = 0xD0
_ANSWER_HEAD: Final = b"\x94\x01"
_REQUEST_HEAD: Final = b"\x94\x00"
_USUAL_ID_ENDS: Final = {**dict.fromkeys(range(0x80), 3), 0xCC: 4, 0xCD: 5, 0xCE: 7}
"""By its first byte, where the id of a request ends that begins with `_REQUEST_HEAD`."""

MAX_DECODED: Final = 64 * 1024
"""Bytes that the broker itself decodes: options and numbers. In memory they can be 80 times as many; objects and events
are only carried."""

_pack: Final = msgpack.Packer(use_bin_type=True).pack
_whole: Final = msgspec.msgpack.Decoder(msgspec.Raw).decode
"""Steps over one value, and refuses bytes behind it."""


class RpcTooLargeError(WireError):
    """A message above the limit; `head` is its beginning, to tell what it is for."""

    def __init__(self, message: str, call_id: bytes, head: bytes) -> None:
        super().__init__(Status.TOO_LARGE, message, call_id)
        self.head = head


class Message(NamedTuple):
    """One request, or (with an empty `id`) one notification."""

    id: bytes
    """The message id as the peer encoded it, to be sent back as it came."""
    method: bytes
    """UTF-8, not checked: it is only looked up."""
    arity: int
    """Number of params."""
    params: bytes
    """The params one after the other, still encoded, without the array's header."""


_new_message: Final[Callable[[type[Message], tuple[bytes, bytes, int, bytes]], Message]] = tuple.__new__
"""Builds a Message in half the time that its own constructor takes."""


def _new_scanner() -> msgpack.Unpacker:
    return msgpack.Unpacker(read_size=_SCANNER_BUFFER, max_buffer_size=_UNLIMITED)


class RpcMessageReader:
    """Cuts a byte stream into messages; holds at most one incomplete message and what was fed after it."""

    def __init__(self, max_message: int) -> None:
        self._limit = max_message + ENVELOPE_SIZE
        self._scanner = _new_scanner()
        self._scanned = 0
        """Bytes the scanner had consumed where `_data` begins."""
        self._data = b""
        self._more: list[bytes] = []
        self._fed = 0
        self._start = 0
        self._call = _NEVER_USED
        """Method and array header of the last request, encoded, and what they say."""
        self._method = b""
        self._arity = 0

    @property
    def pending(self) -> int:
        """Bytes that were fed and are in no message yet."""
        return self._fed - self._start

    @property
    def unfinished_id(self) -> bytes:
        """The id of the request that these begin with; empty where it cannot be told."""
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
        """The next complete message, or None until more is fed.

        Raises WireError where the bytes are not a message, RpcTooLargeError where it is above the limit; nothing can be
        read after that.
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
        # One method is called again and again: what stands between id and params is nearly always as it was last time.
        if data[start : start + 2] == _REQUEST_HEAD:
            id_end = start + _USUAL_ID_ENDS.get(data[start + 2], 0)
            if data.startswith(self._call, id_end):
                params = data[id_end + len(self._call) : end]
                return _new_message(Message, (data[start + 2 : id_end], self._method, self._arity, params))
        return self._parse_and_remember(data[start:end])

    def _parse_and_remember(self, data: bytes) -> Message:
        message = parse(data)
        if data[:2] == _REQUEST_HEAD:
            call = data[len(_REQUEST_HEAD) + len(message.id) : len(data) - len(message.params)]
            if len(call) <= _MAX_REMEMBERED_BYTES:
                self._call, self._method, self._arity = call, message.method, message.arity
        return message

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
        head = self._data[self._start : self._start + HEAD_SIZE]
        return RpcTooLargeError(f"the request has {size} bytes", _id_of(head), head)


def parse(data: bytes) -> Message:
    """Read the envelope of one complete MessagePack value.

    Raises WireError where it is neither a request nor a notification; it carries the id where one can be told.
    """
    at = _USUAL_ID_ENDS.get(data[2], 0) if data[:2] == _REQUEST_HEAD else 0
    if at and _FIXSTR <= (head := data[at]) <= _FIXSTR_END:
        end = at + 1 + (head & 0x1F)
        if _FIXARRAY <= (head := data[end]) <= _FIXARRAY_END:
            return _new_message(Message, (data[2:at], data[at + 1 : end], head & 0x0F, data[end + 1 :]))
    return _parse_any(data)


def _parse_any(data: bytes) -> Message:
    """Do the same for the forms that clients could use and seldom do, and for what is wrong."""
    try:
        count, at = _array(data, 0, "a message is an array")
        kind = data[at]
        if kind == REQUEST and count == 4:
            end = _id_end(data, at + 1)
            return _parse_call(data, data[at + 1 : end], end)
        if kind == NOTIFICATION and count == 3:
            return _parse_call(data, b"", at + 1)
    except IndexError:
        raise WireError(Status.INVALID, "the message ends too early") from None
    raise WireError(Status.INVALID, "a message is [0, id, method, params] or [2, method, params]", _id_of(data))


def _parse_call(data: bytes, call_id: bytes, at: int) -> Message:
    head = data[at]
    if _FIXSTR <= head <= _FIXSTR_END:
        at += 1
        end = at + (head & 0x1F)
    elif (size := _STRING_SIZES.get(head)) is not None:
        end = at + 1 + size + int.from_bytes(data[at + 1 : at + 1 + size], "big")
        at += 1 + size
    else:
        raise WireError(Status.INVALID, "the method is not a string", call_id)
    try:
        count, begin = _array(data, end, "params are an array")
    except WireError as error:
        raise WireError(error.status, error.message, call_id) from None
    return Message(call_id, data[at:end], count, data[begin:])


def _array(data: bytes, at: int, expected: str) -> tuple[int, int]:
    head = data[at]
    if _FIXARRAY <= head <= _FIXARRAY_END:
        return head & 0x0F, at + 1
    size = _ARRAY_SIZES.get(head)
    if size is None:
        raise WireError(Status.INVALID, f"{expected}, not what begins with byte 0x{head:02x}")
    end = at + 1 + size
    return int.from_bytes(data[at + 1 : end], "big"), end


def _id_end(data: bytes, at: int) -> int:
    head = data[at]
    if head <= 0x7F:
        return at + 1
    size = _INTEGER_SIZES.get(head, 0)
    end = at + 1 + size
    if size == 0 or not 0 <= int.from_bytes(data[at + 1 : end], "big", signed=head >= _SIGNED) <= MAX_ID:
        raise WireError(Status.INVALID, "the message id is not an unsigned 32-bit integer")
    return end


def _id_of(data: bytes) -> bytes:
    """The id at the beginning of a request that may be incomplete or wrong behind it; empty where there is none."""
    try:
        _, at = _array(data, 0, "")
        return data[at + 1 : _id_end(data, at + 1)] if data[at] == REQUEST else b""
    except (IndexError, WireError):
        return b""


def pack_result(call_id: bytes, packed: bytes) -> bytes:
    """The answer that carries `packed`, one encoded value, as its result."""
    return b"".join((_ANSWER_HEAD, call_id, NIL, packed))


def pack_error(call_id: bytes, status: Status, message: str) -> bytes:
    """The answer that says why there is no result; an empty id becomes nil: the peer's id could not be read."""
    sendable = message.encode("utf-8", "backslashreplace").decode()
    text: bytes = _pack(f"{status.name}: {sendable}")
    return b"".join((_ANSWER_HEAD, call_id or NIL, text, NIL))


def pack_value(value: object) -> bytes:
    """Encode one value; raises TypeError, ValueError or OverflowError where MessagePack has no form for it."""
    packed: bytes = _pack(value)
    return packed


def check_decodable(packed: bytes) -> None:
    """Refuse what is too long to be decoded here; raises ValueError."""
    if len(packed) > MAX_DECODED:
        raise ValueError(f"{len(packed)} bytes, the limit is {MAX_DECODED} bytes")


def unpack_params(message: Message) -> list[Any]:
    """Decode a call's params.

    Raises ValueError where they are long, a string is not UTF-8, a map's key cannot be one, or an extension is not
    what it says.
    """
    check_decodable(message.params)
    values = msgpack.Unpacker(strict_map_key=False, max_buffer_size=_UNLIMITED, read_size=_SCANNER_BUFFER)
    values.feed(message.params)
    try:
        return [values.unpack() for _ in range(message.arity)]
    except (TypeError, msgpack.UnpackException) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def peek_call(head: bytes) -> tuple[Kind, str]:
    """Return what a call carries and its hook's name, read from its beginning; empty where the name is not in it."""
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
    except (msgpack.UnpackException, ValueError):
        pass
    return Kind.OBJECT_MAP, ""


def split_first(params: bytes) -> tuple[bytes, bytes]:
    """The first of several encoded values, and the others."""
    scanner = _new_scanner()
    scanner.feed(params)
    scanner.skip()
    end = scanner.tell()
    return params[:end], params[end:]


def is_map(packed: bytes) -> bool:
    """Whether an encoded value is a map."""
    return packed[0] in _MAP_HEADS


def is_one_value(packed: bytes) -> bool:
    """Whether bytes are one encoded value and nothing else: what may be put into an answer as it is."""
    try:
        _whole(packed)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
