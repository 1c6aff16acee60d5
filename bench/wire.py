"""A sans-IO HTTP/2 client that makes the same gRPC calls on one connection, as cheaply as Python can.

The frames of a call are prepared once; each call inserts its stream id. Answers are counted by walking over frames: our
header table has size 0, so equal trailers are equal bytes, and only unknown ones are decoded.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from struct import Struct
from typing import Final, NamedTuple

from hpack import Decoder, HPACKError

from tykpy.bench.errors import BenchError
from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.wire import pack_fields, percent_decode
from tykpy.broker.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    HEADERS,
    MAX_FRAME_SIZE,
    PREFACE,
    STREAM_ID_MASK,
    U32,
    FrameType,
    pack_frame,
    pack_head,
    pack_window_update,
)
from tykpy.broker.http2.limits import MAX_WINDOW, MIN_WINDOW
from tykpy.broker.http2.settings import SettingId, pack_settings, parse_settings

DISPATCH_PATH: Final = b"/coprocess.Dispatcher/Dispatch"

_HEAD_SIZE: Final = FRAME_HEAD.size
_DATA_HEAD_SIZE: Final = _HEAD_SIZE - 4
"""Bytes of a frame's head before its stream id."""
_MESSAGE_PREFIX: Final = Struct(">?I")
_TOP_UP: Final = 2**28
"""Bytes received after which the connection's window is widened again."""


class Failure(NamedTuple):
    """A call that did not end with OK."""

    stream_id: int
    text: str
    """The gRPC code and message, or why there is none."""


class Answers(NamedTuple):
    """Calls that have ended."""

    good: list[int]
    """Stream ids of calls that ended with OK."""
    failures: list[Failure]


@dataclass(slots=True)
class _Upload:
    """A call whose body waits for windows."""

    window: int
    body: memoryview
    """What is still to send."""


class LoadConnection:
    """Pass `receive` what the server sent, and write what `take_output` returns; raises BenchError.

    `messages` are sent in turn; each of `fields`, of which there must be enough, ends the header block of one call.
    """

    def __init__(
        self, messages: Sequence[bytes], fields: Iterator[bytes] | None = None, path: bytes = DISPATCH_PATH,
        scheme: bytes = b"http",
    ) -> None:  # fmt: skip
        block = pack_fields(
            (b":method", b"POST"),
            (b":scheme", scheme),
            (b":path", path),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"tykpy-bench"),
            (b"te", b"trailers"),
        )
        bodies = [_MESSAGE_PREFIX.pack(False, len(message)) + message for message in messages]
        self._calls = (
            cycle([_prepared(block, body) for body in bodies])
            if fields is None
            else (_prepared(block + field, body) for field, body in zip(fields, cycle(bodies), strict=False))
        )
        self.max_streams = 100
        """Calls at once that the server allows; replaced by its settings."""
        self.ready = False
        """The server has sent its settings."""
        self.bytes_received = 0
        """Bytes of DATA, for the mean size of an answer."""
        self._out: list[bytes | memoryview] = [PREFACE, _our_settings()]
        self._next_id = 1
        self._window = MIN_WINDOW
        self._stream_window = MIN_WINDOW
        self._uploads: dict[int, _Upload] = {}
        self._rest = b""
        self._topped_up = 0
        self._verdicts: dict[bytes, str] = {}

    def start_calls(self, count: int) -> range:
        """Make so many calls; return their stream ids."""
        first = self._next_id
        ids = range(first, first + 2 * count, 2)
        self._next_id = ids.stop
        # Bodies up to this size can be sent at once, whatever the others are.
        at_once = 0 if self._uploads else min(MAX_FRAME_SIZE, self._stream_window, self._window // count)
        sent, pack, uploads = 0, U32.pack, []
        for stream_id, (head, middle, body) in zip(ids, self._calls, strict=False):
            packed = pack(stream_id)
            if len(body) <= at_once:
                self._out += (head, packed, middle, packed, body)
                sent += len(body)
            else:
                self._out += (head, packed, middle[:-_DATA_HEAD_SIZE])
                uploads.append((stream_id, body))
        self._window -= sent
        if uploads:
            self._start_uploads(uploads)
        return ids

    def take_output(self) -> bytes:
        """Return all bytes to write now."""
        out, self._out = b"".join(self._out), []
        return out

    def receive(self, data: bytes) -> Answers:
        """Walk over the frames that the server sent; return the calls that have ended."""
        if self._rest:
            data = self._rest + data
        good: list[int] = []
        failures: list[Failure] = []
        at, end, verdicts, unpack = 0, len(data), self._verdicts, FRAME_HEAD.unpack_from
        while at + _HEAD_SIZE <= end:
            high, low, kind, flags, stream_id = unpack(data, at)
            at += _HEAD_SIZE
            next_at = at + (high << 8 | low)
            if next_at > end:
                at -= _HEAD_SIZE
                break
            if kind == DATA:
                self.bytes_received += next_at - at
            elif kind == HEADERS and flags == END_HEADERS | END_STREAM:
                block = data[at:next_at]
                verdict = verdicts.get(block)
                if verdict is None:
                    verdict = self._judge(block)
                if verdict:
                    failures.append(Failure(stream_id, verdict))
                else:
                    good.append(stream_id)
            elif kind != HEADERS or flags != END_HEADERS:
                self._take_other(kind, flags, stream_id, data[at:next_at], failures)
            at = next_at
        self._rest = data[at:]
        if self.bytes_received - self._topped_up > _TOP_UP:
            self._top_up()
        for failure in failures:
            self._uploads.pop(failure.stream_id, None)
        return Answers(good, failures)

    def _top_up(self) -> None:
        self._out.append(pack_window_update(0, self.bytes_received - self._topped_up))
        self._topped_up = self.bytes_received

    def _judge(self, block: bytes) -> str:
        """Return what trailers mean, empty for OK, and remember it: equal bytes have equal meaning."""
        try:
            # A new decoder each time has no table, and does not need the server to announce that it uses none.
            fields = dict(Decoder().decode(block, raw=True))
        except HPACKError as error:
            raise BenchError(f"the server's trailers do not decode: {error}") from error
        status = fields.get(b"grpc-status")
        verdict = ""
        if status is None:
            verdict = f"not gRPC: HTTP status {fields.get(b':status', b'?').decode('latin-1')}"
        elif status != b"0":
            verdict = f"{_code_name(status)}: {percent_decode(fields.get(b'grpc-message', b''))}"
        self._verdicts[block] = verdict
        return verdict

    # Bodies that do not fit into one frame or into the windows

    def _start_uploads(self, uploads: Iterable[tuple[int, bytes]]) -> None:
        begun = {stream_id: _Upload(self._stream_window, memoryview(body)) for stream_id, body in uploads}
        self._uploads |= begun
        self._pump(begun)

    def _pump(self, ids: Iterable[int]) -> None:
        """Send what the windows allow of these uploads, one frame of each in turn."""
        turns = deque(ids)
        while turns and self._window > 0:
            stream_id = turns.popleft()
            upload = self._uploads[stream_id]
            size = min(len(upload.body), MAX_FRAME_SIZE, self._window, upload.window)
            if size <= 0:
                continue
            last = size == len(upload.body)
            self._out.append(_head_of(size, DATA, END_STREAM if last else 0) + U32.pack(stream_id))
            self._out.append(upload.body[:size])
            self._window -= size
            upload.window -= size
            upload.body = upload.body[size:]
            if last:
                del self._uploads[stream_id]
            else:
                turns.append(stream_id)

    # Rare frames

    def _take_other(self, kind: int, flags: int, stream_id: int, payload: bytes, failures: list[Failure]) -> None:
        if kind == FrameType.SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == FrameType.PING and not flags & ACK:
            self._out.append(pack_frame(FrameType.PING, ACK, 0, payload))
        elif kind == FrameType.WINDOW_UPDATE:
            self._widen(stream_id, U32.unpack(payload)[0] & STREAM_ID_MASK)
        elif kind == FrameType.RST_STREAM:
            failures.append(Failure(stream_id, f"the server reset the call, HTTP/2 code {U32.unpack(payload)[0]}"))
        elif kind == FrameType.GOAWAY:
            reason = payload[8:].decode("utf-8", "replace") or "GOAWAY"
            raise BenchError(f"the server ended the connection: {reason}")
        elif kind in (HEADERS, FrameType.CONTINUATION):
            raise BenchError("the server's headers are padded, or longer than a frame: not expected of a broker")

    def _take_settings(self, payload: bytes) -> None:
        for name, value in parse_settings(payload):
            if name == SettingId.MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif name == SettingId.INITIAL_WINDOW_SIZE:
                for upload in self._uploads.values():
                    upload.window += value - self._stream_window
                self._stream_window = value
        self.ready = True
        self._out.append(pack_frame(FrameType.SETTINGS, ACK, 0))
        self._pump(self._uploads)

    def _widen(self, stream_id: int, increment: int) -> None:
        if not stream_id:
            self._window += increment
            self._pump(self._uploads)
        elif stream_id in self._uploads:
            self._uploads[stream_id].window += increment
            self._pump([stream_id])


def _head_of(length: int, kind: int, flags: int) -> bytes:
    """Return a frame's head up to its stream id."""
    return pack_head(length, kind, flags, 0)[:-4]


def _prepared(block: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a call without its stream ids: what precedes the first, what is between them, and the body.

    The first is that of the header frame, whose block is followed by the head of a frame with the whole body.
    """
    return _head_of(len(block), HEADERS, END_HEADERS), block + _head_of(len(body), DATA, END_STREAM), body


def _our_settings() -> bytes:
    settings = pack_settings(
        (SettingId.HEADER_TABLE_SIZE, 0),
        (SettingId.ENABLE_PUSH, 0),
        (SettingId.INITIAL_WINDOW_SIZE, MAX_WINDOW),
        (SettingId.MAX_FRAME_SIZE, MAX_FRAME_SIZE),
    )
    return settings + pack_window_update(0, MAX_WINDOW - MIN_WINDOW)


def _code_name(status: bytes) -> str:
    text = status.decode("latin-1")
    return GrpcCode(int(text)).name if text.isdecimal() and int(text) in set(GrpcCode) else f"code {text}"
