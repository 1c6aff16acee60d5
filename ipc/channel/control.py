"""The control socket between the broker and a worker: named messages; end of file means that the peer is gone.

Wire: length (u32), then a msgpack array `[name, body]`. A worker's end blocks; the broker's never does, and queues
what the socket does not take.
"""

import socket
import struct
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar

import msgpack
import msgspec

from tykpy.ipc.errors import ControlClosedError, ControlCorruptError, ControlFullError

MAX_CONTROL_BYTES: Final = 4 * 1024 * 1024
"""Largest message: descriptions of very many bundles."""
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""Most unsent bytes for a worker that does not read; with more it is given up."""

_PREFIX: Final = struct.Struct("<I")
_READ: Final = 16384
_READS_PER_CALL: Final = 4
"""A flood of control messages must not keep the broker's event loop: 64 KiB of the shortest take it 10 ms."""


_T = TypeVar("_T")
_decode: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode


class ControlMessage(NamedTuple):
    """One message."""

    name: str
    packed: msgspec.Raw
    """The undecoded body: one byte of it can become 80 in memory, so readers name the type that they expect."""

    @property
    def body(self) -> Any:
        """The body as any type, for receivers that trust the sender. Raises ControlCorruptError."""
        return self._read(_decode_any)

    def read(self, decoder: "msgspec.msgpack.Decoder[_T]") -> _T:
        """Decode the body as the decoder's type. Raises ControlCorruptError if it is anything else."""
        return self._read(decoder.decode)

    def _read(self, decode: Callable[[msgspec.Raw], _T]) -> _T:
        try:
            return decode(self.packed)
        except (ValueError, RecursionError) as error:
            raise ControlCorruptError(f"a control message {self.name!r} that makes no sense: {error}") from error


class ControlSocket:
    """One end; `send` may be called by several threads, `receive` by one."""

    def __init__(self, sock: socket.socket, *, blocking: bool) -> None:
        sock.setblocking(blocking)
        self._socket = sock
        self._blocking = blocking
        self._lock = Lock()
        self._outbox: deque[memoryview] = deque()
        self._waiting = 0
        self._inbox = bytearray()
        self._closed_by_peer = False
        self._blocked: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        """Return the descriptor, for `loop.add_reader` and `add_writer` (see `when_blocked`)."""
        return self._socket.fileno()

    @property
    def waiting(self) -> int:
        """Unsent bytes; call `flush` when the socket is writable."""
        return self._waiting

    def when_blocked(self, call: Callable[[], object]) -> None:
        """Set the callback for unsent bytes, called now if there are any; it should arrange for `flush`."""
        self._blocked = call
        if self._waiting:
            call()

    def send(self, name: str, body: Any = None) -> None:
        """Send a message.

        Raises ControlClosedError if the peer is gone, ControlFullError if it has not read for a long time.
        """
        message = msgpack.packb([name, body], use_bin_type=True)
        data = _PREFIX.pack(len(message)) + message
        with self._lock:
            if self._waiting + len(data) > MAX_WAITING_BYTES:
                raise ControlFullError(self._waiting + len(data), MAX_WAITING_BYTES)
            self._outbox.append(memoryview(data))
            self._waiting += len(data)
            self._flush()
            blocked = bool(self._outbox)
        if blocked:
            self._blocked()

    def flush(self) -> bool:
        """Send queued bytes; return True if none are left."""
        with self._lock:
            self._flush()
            return not self._outbox

    def _flush(self) -> None:
        while self._outbox:
            data = self._outbox[0]
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                return
            except OSError as error:
                raise ControlClosedError(f"the other process is gone: {error.strerror}") from error
            self._waiting -= sent
            if sent == len(data):
                self._outbox.popleft()
            else:
                self._outbox[0] = data[sent:]

    def receive(self) -> list[ControlMessage]:
        """Return the messages that have arrived; a blocking end waits for at least one.

        Raises ControlClosedError at end of file, once all earlier messages were returned, and ControlCorruptError for
        anything that is no message.
        """
        messages: list[ControlMessage] = []
        for _ in range(_READS_PER_CALL):
            if not self._read():
                break
            messages += self._complete_messages()
            if self._blocking and messages:
                break
        if self._closed_by_peer and not messages:
            raise ControlClosedError("the other process has closed the control socket")
        return messages

    def _read(self) -> bool:
        if self._closed_by_peer:
            return False
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._closed_by_peer = not data
        self._inbox += data
        return bool(data)

    def _complete_messages(self) -> list[ControlMessage]:
        messages: list[ControlMessage] = []
        offset, inbox = 0, self._inbox
        while len(inbox) - offset >= _PREFIX.size:
            (length,) = _PREFIX.unpack_from(inbox, offset)
            if length > MAX_CONTROL_BYTES:
                raise ControlCorruptError(f"a control message of {length} bytes")
            end = offset + _PREFIX.size + length
            if len(inbox) < end:
                break
            messages.append(self._decode(bytes(memoryview(inbox)[offset + _PREFIX.size : end])))
            offset = end
        del inbox[:offset]
        return messages

    def _decode(self, data: bytes) -> ControlMessage:
        try:
            name, packed = _decode(data)
        except (ValueError, RecursionError) as error:
            raise ControlCorruptError(f"a control message that is no [name, body]: {error}") from error
        return ControlMessage(name, packed)

    def close(self) -> None:
        """Close the socket; a thread blocked in `receive` gets ControlClosedError."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._closed_by_peer = True  # the peer was faster
        self._socket.close()
        self._outbox.clear()
