"""The peer of a sans-IO HTTP/2 connection: makes frames and parses the answers."""

from struct import Struct
from typing import NamedTuple

from hpack import Decoder, Encoder

from tests.support.gateway.echo_dispatcher import EchoDispatcher
from tykpy.broker.arriving import Arriving
from tykpy.broker.grpc.calls import GrpcCalls, Upload
from tykpy.broker.grpc.head import GrpcHeadReader, Method
from tykpy.broker.grpc.health import HealthService
from tykpy.broker.grpc.reflection import reflection_methods
from tykpy.broker.http2.connection import Connection
from tykpy.broker.http2.frames import ACK, END_HEADERS, END_STREAM, PREFACE, FrameType, pack_frame
from tykpy.broker.http2.hpack.head_cache import FORBID_AFTER, HeadCache
from tykpy.broker.http2.limits import Limits

PATH = "/coprocess.Dispatcher/Dispatch"
_HEAD = Struct(">HBBBI")
_SETTING = Struct(">HI")
_U32 = Struct(">I")


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def settings(**values: int) -> bytes:
    """A SETTINGS frame, e.g. `settings(initial_window_size=1)`."""
    ids = {"header_table_size": 1, "initial_window_size": 4, "max_frame_size": 5}
    return pack_frame(FrameType.SETTINGS, 0, 0, b"".join(_SETTING.pack(ids[n], v) for n, v in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return pack_frame(FrameType.WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def reset(stream_id: int, code: int = 8) -> bytes:
    """A RST_STREAM frame."""
    return pack_frame(FrameType.RST_STREAM, 0, stream_id, _U32.pack(code))


def data(stream_id: int, payload: bytes, flags: int = END_STREAM) -> bytes:
    """A DATA frame."""
    return pack_frame(FrameType.DATA, flags, stream_id, payload)


def message(body: bytes) -> bytes:
    """A gRPC message, not compressed."""
    return b"\0" + _U32.pack(len(body)) + body


def frames(output: bytes) -> list[Frame]:
    """All frames of an output."""
    found = []
    at = 0
    while at < len(output):
        high, low, kind, flags, stream_id = _HEAD.unpack_from(output, at)
        end = at + _HEAD.size + (high << 8 | low)
        found.append(Frame(kind, flags, stream_id, output[at + _HEAD.size : end]))
        at = end
    assert at == len(output)
    return found


class Clock:
    """A clock that is advanced by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """A connection with gRPC on it and an `EchoDispatcher` behind, after the handshake."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        handshake: bool = True,
        echo: EchoDispatcher | None = None,
        arriving: Arriving | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.echo = echo or EchoDispatcher()
        self.clock = Clock()
        self.wakes = 0
        methods = {
            PATH.encode(): Method(kind=1),
            b"/coprocess.Dispatcher/DispatchEvent": Method(kind=2),
            **HealthService().methods(),
            **reflection_methods(),
        }
        cache = HeadCache(GrpcHeadReader(methods, self.limits), self.limits)
        self.arriving = arriving or Arriving()
        self.calls = GrpcCalls(self.echo, self.limits, arriving=self.arriving)
        self.connection = Connection(self.calls, cache, self.limits, self._wake, self.clock)
        self.calls.sender = self.connection.sender
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.received: list[Frame] = []
        if handshake:
            self.send(PREFACE + settings(), pack_frame(FrameType.SETTINGS, ACK, 0))
            # As after two requests, so that a test has the usual state without them.
            self.connection._headers._blocks = FORBID_AFTER
            self.connection._forbid_table()
            self.send(pack_frame(FrameType.SETTINGS, ACK, 0))
            self.encoder.header_table_size = 0

    @property
    def unfinished(self) -> int:
        """The number of bytes held of incomplete requests, added up over the streams."""
        calls = (stream.application for stream in self.connection.streams.values())
        return sum(call.held for call in calls if isinstance(call, Upload))

    def _wake(self) -> None:
        self.wakes += 1

    def send(self, *parts: bytes) -> list[Frame]:
        """Send bytes, and collect the output."""
        self.connection.receive(b"".join(parts))
        return self.take()

    def take(self) -> list[Frame]:
        """All frames of the output."""
        output = b""
        while parts := self.connection.take_output():
            output += b"".join(parts)
        found = frames(output)
        self.received += found
        return found

    def headers(self, stream_id: int, *extra: tuple[str, str], flags: int = END_HEADERS, **changed: str) -> bytes:
        """A HEADERS frame of a gRPC request; `changed` replaces fields, pseudo-fields by their bare names."""
        return pack_frame(FrameType.HEADERS, flags, stream_id, self.block(*extra, **changed))

    def block(self, *extra: tuple[str, str], **changed: str) -> bytes:
        """Return the header block of a gRPC request."""
        fields = {"method": "POST", "scheme": "http", "path": PATH, "authority": "localhost"} | changed
        regular = [("content-type", "application/grpc"), ("te", "trailers")]
        return self.encode([(f":{name}", value) for name, value in fields.items()] + regular + list(extra))

    def encode(self, fields: list[tuple[str, str]]) -> bytes:
        """Encode a header list with this peer's HPACK state."""
        return bytes(self.encoder.encode(fields))

    def request(self, stream_id: int, body: bytes, *extra: tuple[str, str]) -> bytes:
        """A whole call in two frames."""
        return self.headers(stream_id, *extra) + data(stream_id, message(body))

    def fields(self, frame: Frame) -> dict[str, str]:
        """Decode the fields of a HEADERS frame."""
        return {str(name): str(value) for name, value in self.decoder.decode(frame.payload)}

    def body(self, stream_id: int) -> bytes:
        """All DATA received on a stream."""
        return b"".join(f.payload for f in self.received if f.kind == FrameType.DATA and f.stream_id == stream_id)

    def trailers(self, stream_id: int) -> dict[str, str]:
        """The fields that ended a stream's answer."""
        (last,) = [
            frame
            for frame in self.received
            if frame.kind == FrameType.HEADERS and frame.stream_id == stream_id and frame.flags & END_STREAM
        ]
        return self.fields(last)


def code_of(found: list[Frame], kind: FrameType) -> int:
    """The error code of the only frame of that type (GOAWAY or RST_STREAM)."""
    (frame,) = [frame for frame in found if frame.kind == kind]
    at = 4 if kind == FrameType.GOAWAY else 0
    return int(_U32.unpack_from(frame.payload, at)[0])
