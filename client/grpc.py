"""A small blocking gRPC client for one call at a time, used by `tykpy call` and the demo.

It is built on the `h2` library, so that our HTTP/2 server code is not tested against itself.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.wire import MESSAGE_PREFIX, MESSAGE_PREFIX_SIZE, GrpcCallError, format_timeout, percent_decode
from tykpy.broker.net.tls import PREFIX
from tykpy.client.dialing import ClientTls, dial

__all__ = ["GrpcCallError", "GrpcClient"]

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for one call."""
_FRAME_HEADER: Final = 9
_GOAWAY: Final = 7
_NO_ERROR: Final = bytes(4)
_READ_SIZE: Final = 256 * 1024
_WINDOW: Final = 2**30
"""Bytes that we are ready to receive; the server has its own limits."""


class GrpcClient(AbstractContextManager["GrpcClient"]):
    """One connection to `unix:///path`, `unix:path`, `tcp://host:port` or `tls://host:port`; not for several threads
    at once.

    Raises what `client.dialing.dial` raises: OSError if nobody listens, AddressError for an invalid address.
    """

    def __init__(self, address: str, connect_timeout: float = DEFAULT_TIMEOUT, tls: ClientTls | None = None) -> None:
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._partial = b""
        self._scheme = b"https" if address.startswith(PREFIX) else b"http"
        self._socket, received = dial(address, connect_timeout, tls)
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW)
        self._receive(_Answer(0), received)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def call(
        self,
        method: str,
        payload: bytes,
        timeout: float | None = DEFAULT_TIMEOUT,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Make one unary call of `/package.Service/Method`; `timeout` is in seconds, None means no limit.

        Raises GrpcCallError if it ends with a code other than OK, OSError if the connection breaks.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        answer = _Answer(self._http.get_next_available_stream_id())
        try:
            self._http.send_headers(answer.stream_id, _headers(self._scheme, method, timeout, metadata or {}))
            self._exchange(answer, MESSAGE_PREFIX.pack(0, len(payload)) + payload, deadline)
        except ProtocolError as error:
            raise ConnectionError(f"the server does not speak HTTP/2 as it should: {error}") from error
        except TimeoutError:
            self._http.reset_stream(answer.stream_id, 8)
            self._send()
            raise GrpcCallError(GrpcCode.DEADLINE_EXCEEDED, f"no answer before the deadline of {timeout} s") from None
        return answer.message()

    def _exchange(self, answer: "_Answer", body: bytes, deadline: float | None) -> None:
        """Send the body as the server's windows allow, and read until the answer is complete."""
        sent = 0
        while not answer.ended:
            while sent < len(body) and not answer.ended:
                stream_id = answer.stream_id
                room = min(self._http.local_flow_control_window(stream_id), self._http.max_outbound_frame_size)
                if room <= 0:
                    break
                part = body[sent : sent + room]
                sent += len(part)
                self._http.send_data(stream_id, part, end_stream=sent == len(body))
                self._send()
            self._send()
            self._socket.settimeout(_remaining(deadline))
            data = self._socket.recv(_READ_SIZE)
            if not data:
                raise ConnectionError("the server closed the connection before it answered")
            self._receive(answer, data)
        self._send()

    def _receive(self, answer: "_Answer", data: bytes) -> None:
        """Feed the connection, except for the GOAWAY of a draining server: h2 would refuse the frames after it."""
        self._partial += data
        while len(self._partial) >= _FRAME_HEADER:
            end = _FRAME_HEADER + int.from_bytes(self._partial[:3], "big")
            if len(self._partial) < end:
                break
            frame, self._partial = self._partial[:end], self._partial[end:]
            if frame[3] == _GOAWAY and frame[13:17] == _NO_ERROR:
                continue
            for event in self._http.receive_data(frame):
                self._take(answer, event)

    def _take(self, answer: "_Answer", event: Event) -> None:
        if isinstance(event, DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        if isinstance(event, ConnectionTerminated):
            if event.error_code:
                raise ConnectionError(f"the server ended the connection: {event.additional_data!r}")
            return
        answer.take(event)

    def _send(self) -> None:
        self._socket.sendall(self._http.data_to_send())


class _Answer:
    """The answer to one call, as far as it has come."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def take(self, event: Event) -> None:
        """Take an event if it belongs to this call."""
        if getattr(event, "stream_id", None) != self.stream_id:
            return
        if isinstance(event, ResponseReceived | TrailersReceived):
            self._headers.update(dict(event.headers or ()))
        elif isinstance(event, DataReceived):
            self._body += event.data or b""
        elif isinstance(event, StreamReset):
            self._headers.setdefault(b"grpc-status", b"%d" % GrpcCode.UNAVAILABLE)
            self._headers.setdefault(b"grpc-message", b"the server reset the call, code %d" % (event.error_code or 0))
            self.ended = True
        elif isinstance(event, StreamEnded):
            self.ended = True

    def message(self) -> bytes:
        """Return the message; raises GrpcCallError."""
        status = self._headers.get(b"grpc-status")
        if status is None:
            text = f"not gRPC: HTTP status {self._headers.get(b':status', b'?').decode()}"
            raise GrpcCallError(GrpcCode.UNKNOWN, text)
        if status != b"0":
            code = GrpcCode(int(status)) if status.isdigit() and int(status) <= max(GrpcCode) else GrpcCode.UNKNOWN
            raise GrpcCallError(code, percent_decode(self._headers.get(b"grpc-message", b"")))
        size = len(self._body) - MESSAGE_PREFIX_SIZE
        if size < 0 or MESSAGE_PREFIX.unpack_from(self._body) != (0, size):
            raise GrpcCallError(GrpcCode.INTERNAL, "the answer is not one message without compression")
        return bytes(self._body[MESSAGE_PREFIX_SIZE:])


def _headers(
    scheme: bytes, method: str, timeout: float | None, metadata: Mapping[str, str]
) -> list[tuple[bytes, bytes]]:
    headers = [
        (b":method", b"POST"),
        (b":scheme", scheme),
        (b":path", method.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"tykpy"),
        (b"te", b"trailers"),
    ]
    if timeout is not None:
        headers.append((b"grpc-timeout", format_timeout(timeout)))
    return headers + [(name.lower().encode(), value.encode()) for name, value in metadata.items()]


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
