"""The control socket between the broker and one worker: named messages, its end of file is the other's death.

Wire: length (u32) and number of descriptors (u32), then a msgpack array `[name, body]`. A descriptor travels with
the first byte of its message. A worker's end blocks; the broker's never does and keeps what the socket does not take.
"""

import os
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar

import msgpack
import msgspec

from tykpy.ipc.errors import ControlClosedError, ControlCorruptError, ControlFullError

MAX_CONTROL_BYTES: Final = 4 * 1024 * 1024
"""One message; "hooks" of very many bundles is the longest."""
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""What the broker keeps for a worker that does not read, before it is given up."""

_PREFIX: Final = struct.Struct("<II")
_READ: Final = 16384
_READS_PER_CALL: Final = 4
"""A flood of control messages must not keep the broker's event loop: 64 KiB of the shortest take it 10 ms."""
_DESCRIPTOR: Final = array("i").itemsize
_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


_T = TypeVar("_T")
_decode: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode


class ControlMessage(NamedTuple):
    """One message; a descriptor is the receiver's to close."""

    name: str
    packed: msgspec.Raw
    """The body as it came: a byte of it can become 80 in memory, so who reads it says first what may be in it."""
    fd: int | None

    @property
    def body(self) -> Any:
        """The body, whatever it is: for a receiver that trusts the sender. Raises ControlCorruptError."""
        return self._read(_decode_any)

    def read(self, decoder: "msgspec.msgpack.Decoder[_T]") -> _T:
        """The body as the decoder's type; raises ControlCorruptError where it is something else."""
        return self._read(decoder.decode)

    def _read(self, decode: Callable[[msgspec.Raw], _T]) -> _T:
        try:
            return decode(self.packed)
        except (ValueError, RecursionError) as error:
            raise ControlCorruptError(f"a control message {self.name!r} that makes no sense: {error}") from error


def send_descriptor(sock: socket.socket, data: bytes | memoryview, descriptor: int | None, flags: int = 0) -> int:
    """Send bytes, with a descriptor on the first of them; returns how many went."""
    if descriptor is None:
        return sock.send(data, flags)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))], flags)


def receive_descriptor(sock: socket.socket, size: int, flags: int = 0) -> tuple[bytes, int | None]:
    """Receive up to `size` bytes and at most one descriptor (not inheritable); the kernel drops any further ones."""
    # CMSG_LEN and not CMSG_SPACE: the padding of the latter has room for a second descriptor.
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_LEN(_DESCRIPTOR), flags | _CLOSE_ON_EXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(content) >= _DESCRIPTOR:
            descriptor: int = array("i", content[:_DESCRIPTOR])[0]
            os.set_inheritable(descriptor, False)
            return data, descriptor
    return data, None


class ControlSocket:
    """One end; `send` may be called by several threads, `receive` by one."""

    def __init__(self, sock: socket.socket, *, blocking: bool) -> None:
        sock.setblocking(blocking)
        self._socket = sock
        self._blocking = blocking
        self._lock = Lock()
        self._outbox: deque[tuple[memoryview, int | None]] = deque()
        self._waiting = 0
        self._inbox = bytearray()
        self._descriptors: deque[int] = deque()
        self._closed_by_peer = False
        self._blocked: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        """For `loop.add_reader`, and for `add_writer`: see `when_blocked`."""
        return self._socket.fileno()

    @property
    def waiting(self) -> int:
        """Bytes that the socket has not taken yet: call `flush` when it is writable."""
        return self._waiting

    def when_blocked(self, call: Callable[[], object]) -> None:
        """Call back after each `send` that left something over, and now if there is: `flush` when it is writable."""
        self._blocked = call
        if self._waiting:
            call()

    def send(self, name: str, body: Any = None, fd: int | None = None) -> None:
        """Send a message; the descriptor stays the caller's.

        Raises ControlClosedError where the peer is gone, ControlFullError where it has not read for long.
        """
        message = msgpack.packb([name, body], use_bin_type=True)
        data = _PREFIX.pack(len(message), 0 if fd is None else 1) + message
        with self._lock:
            if self._waiting + len(data) > MAX_WAITING_BYTES:
                raise ControlFullError(self._waiting + len(data), MAX_WAITING_BYTES)
            self._outbox.append((memoryview(data), None if fd is None else os.dup(fd)))
            self._waiting += len(data)
            self._flush()
            blocked = bool(self._outbox)
        if blocked:
            self._blocked()

    def flush(self) -> bool:
        """Send what waits; True when nothing is left."""
        with self._lock:
            self._flush()
            return not self._outbox

    def _flush(self) -> None:
        while self._outbox:
            data, descriptor = self._outbox[0]
            try:
                sent = send_descriptor(self._socket, data, descriptor)
            except BlockingIOError:
                return
            except OSError as error:
                raise ControlClosedError(f"the other process is gone: {error.strerror}") from error
            self._waiting -= sent
            if descriptor is not None:
                os.close(descriptor)
            if sent == len(data):
                self._outbox.popleft()
            else:
                self._outbox[0] = (data[sent:], None)

    def receive(self) -> list[ControlMessage]:
        """The messages that are here; a blocking end waits for at least one.

        Raises ControlClosedError at end of file (after what came before it), ControlCorruptError on nonsense.
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
            data, descriptor = receive_descriptor(self._socket, _READ)
        except BlockingIOError:
            return False
        except OSError:
            data, descriptor = b"", None
        if descriptor is not None:
            self._descriptors.append(descriptor)
        self._closed_by_peer = not data
        self._inbox += data
        return bool(data)

    def _complete_messages(self) -> list[ControlMessage]:
        messages: list[ControlMessage] = []
        offset, inbox = 0, self._inbox
        while len(inbox) - offset >= _PREFIX.size:
            length, descriptors = _PREFIX.unpack_from(inbox, offset)
            if length > MAX_CONTROL_BYTES or descriptors > 1:
                raise ControlCorruptError(f"a control message of {length} bytes with {descriptors} descriptors")
            end = offset + _PREFIX.size + length
            if len(inbox) < end:
                break
            messages.append(self._decode(bytes(memoryview(inbox)[offset + _PREFIX.size : end]), descriptors))
            offset = end
        del inbox[:offset]
        if len(self._descriptors) > (1 if inbox else 0):
            raise ControlCorruptError(f"{len(self._descriptors)} descriptors that no control message announced")
        return messages

    def _decode(self, data: bytes, descriptors: int) -> ControlMessage:
        try:
            name, packed = _decode(data)
        except (ValueError, RecursionError) as error:
            raise ControlCorruptError(f"a control message that is no [name, body]: {error}") from error
        if descriptors and not self._descriptors:
            raise ControlCorruptError(f"the descriptor of {name!r} is missing: too many open files?")
        return ControlMessage(name, packed, self._descriptors.popleft() if descriptors else None)

    def close(self) -> None:
        """Close; a thread blocked in `receive` gets ControlClosedError."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._closed_by_peer = True  # the peer was faster
        self._socket.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for _, outgoing in self._outbox:
            if outgoing is not None:
                os.close(outgoing)
        self._descriptors.clear()
        self._outbox.clear()
