"""A hostile peer: one raw HTTP/2 connection over a real socket, which can send anything."""

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from hpack import Encoder

from tests.support.broker import PATIENCE
from tests.support.peers.http2_peer import PATH, Frame, data, message, settings
from tykpy.broker.http2.frames import ACK, END_HEADERS, PREFACE, FrameType, pack_frame

CHUNK: Final = 65_536
HELLO: Final = PREFACE + settings() + pack_frame(FrameType.SETTINGS, ACK, 0)
CALL: Final = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


class Attacker:
    """Connects at once; does not read until `flood` or `read_to_end`."""

    def __init__(self, address: str, hello: bytes = HELLO) -> None:
        """`address`: the path of a Unix socket."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(address)
        self._encoder = Encoder()
        self._encoder.header_table_size = 0
        self._received = bytearray()
        self.ended = False
        """Whether the broker has closed the connection."""
        self.send(hello)

    def send(self, *parts: bytes) -> None:
        """Send without reading anything."""
        self._socket.sendall(b"".join(parts))

    def block(self, *extra: tuple[str, str], path: str = PATH) -> bytes:
        """Return a header block of a call that uses no table."""
        return self._encoder.encode([*CALL[:2], (":path", path), *CALL[2:], *extra])

    def headers(self, stream_id: int, *extra: tuple[str, str], flags: int = END_HEADERS, path: str = PATH) -> bytes:
        """Return the HEADERS of a call."""
        return pack_frame(FrameType.HEADERS, flags, stream_id, self.block(*extra, path=path))

    def request(self, stream_id: int, body: bytes) -> bytes:
        """Return a whole call."""
        return self.headers(stream_id) + data(stream_id, message(body))

    def flood(self, parts: Iterable[bytes]) -> list[Frame]:
        """Send everything while reading, until the broker ends the connection; return its frames."""
        self._socket.setblocking(False)
        waiting = b""
        source: Iterator[bytes] = iter(parts)
        while not self.ended:
            waiting = waiting or b"".join(part for part, _ in zip(source, range(256), strict=False))
            if not waiting:
                break
            readable, writable, _ = select.select([self._socket], [self._socket], [], PATIENCE)
            assert readable or writable, "the broker neither reads nor ends the connection"
            if readable:
                self._read()
            elif writable:
                waiting = self._send_some(waiting)
        self._socket.settimeout(PATIENCE)
        return self.read_to_end()

    def _send_some(self, waiting: bytes) -> bytes:
        try:
            return waiting[self._socket.send(waiting) :]
        except BlockingIOError:
            return waiting
        except (BrokenPipeError, ConnectionResetError):
            # What the broker has said before can still be read.
            return b"" if self._drained() else waiting

    def _drained(self) -> bool:
        while not self.ended:
            self._read()
        return True

    def _read(self) -> None:
        try:
            received = self._socket.recv(CHUNK)
        except ConnectionResetError:
            received = b""
        self._received += received
        self.ended = not received

    def read_to_end(self) -> list[Frame]:
        """Read until the broker has closed the connection; return all frames so far."""
        end = time.monotonic() + PATIENCE
        while not self.ended:
            assert time.monotonic() < end, "the broker does not end the connection"
            self._read()
        return self.frames()

    def read_until(self, arrived: Callable[[Frame], bool]) -> list[Frame]:
        """Read until such a frame arrives; return all frames so far."""
        end = time.monotonic() + PATIENCE
        while not any(map(arrived, found := self.frames())):
            waits = time.monotonic() < end and not self.ended
            assert waits, f"not among what came: {found}"
            self._read()
        return found

    def frames(self) -> list[Frame]:
        """All complete frames read so far."""
        found, at = [], 0
        received = bytes(self._received)
        while len(received) - at >= 9:
            length = int.from_bytes(received[at : at + 3], "big")
            if len(received) - at < 9 + length:
                break
            stream_id = int.from_bytes(received[at + 5 : at + 9], "big")
            found.append(Frame(received[at + 3], received[at + 4], stream_id, received[at + 9 : at + 9 + length]))
            at += 9 + length
        return found

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
