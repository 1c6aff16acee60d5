"""The orders that the broker sends to its zygote: fork a worker, or reap one.

A zygote is a process that has imported what workers need, and forks them; it is their parent, so only it learns how
they end.

Wire: a socket that preserves message boundaries. The zygote's first message says that it is ready; after that it sends
one reply per order. Orders are `fork CHANNEL`, with the descriptors of a channel, and `reap PID`. A reply is an errno
(i32, 0 on success) and a number (i32).
"""

import errno
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from tykpy.ipc.errors import ZygoteLostError

ARGUMENT: Final = "orders:"
"""What goes before the descriptor of its socket in a zygote's argv; workers have a channel there."""
PATIENCE: Final = 2.0
"""Seconds that the broker waits for a reply, and does nothing else: it takes 1 to 3 ms, more on a busy machine."""

_READY: Final = b"ready"
_REPLY: Final = struct.Struct("<ii")
_TIMEVAL: Final = struct.Struct("@ll")
_MAX_ORDER: Final = 128
"""Bytes."""
_MAX_DESCRIPTORS: Final = 16
_ROOM: Final = socket.CMSG_LEN(_MAX_DESCRIPTORS * array("i").itemsize)


class Fork(NamedTuple):
    """Start a worker."""

    channel: str
    """Its channel argument, with the numbers that the descriptors have in the zygote."""
    descriptors: Sequence[int]


class Reap(NamedTuple):
    """Wait for a worker to end, and report how it ended."""

    pid: int


class OrderSender:
    """The broker's end. Discard it after ZygoteLostError: a late reply would be mistaken for the next order's."""

    def __init__(self, sock: socket.socket) -> None:
        # The kernel's own time limits: Python's `settimeout` calls poll(2), which fails with EINVAL while a process may
        # have no descriptors (RLIMIT_NOFILE below the one descriptor that it polls).
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(int(PATIENCE * 1e6), 1_000_000)))
        sock.setblocking(False)
        self._socket = sock

    def fileno(self) -> int:
        """Return the descriptor for `loop.add_reader`: readable when the zygote is ready, and when it has ended."""
        return self._socket.fileno()

    def hear(self) -> bool | None:
        """Return why the socket became readable: the zygote is ready (True), has ended (False), or neither (None)."""
        try:
            return self._socket.recv(_REPLY.size) == _READY
        except BlockingIOError:
            return None
        except OSError:
            return False

    def fork(self, channel: str, descriptors: Sequence[int]) -> int:
        """Fork a worker with the descriptors that the channel argument names; return its process number.

        Raises ZygoteLostError, or OSError if the zygote has no processes, memory or descriptors left.
        """
        return self._order(f"fork {channel}", descriptors)

    def reap(self, pid: int) -> int:
        """Return the exit code of a worker that has ended, negative for a signal. Raises the same errors as `fork`."""
        return self._order(f"reap {pid}")

    def _order(self, order: str, descriptors: Sequence[int] = ()) -> int:
        self._socket.setblocking(True)
        try:
            socket.send_fds(self._socket, [order.encode()], descriptors)
            reply = self._socket.recv(_REPLY.size)
        except BlockingIOError as error:
            raise ZygoteLostError("the zygote does not answer: timed out") from error
        except OSError as error:
            raise ZygoteLostError(f"the zygote does not answer: {error}") from error
        finally:
            self._socket.setblocking(False)
        if len(reply) != _REPLY.size:
            raise ZygoteLostError("the zygote has ended")
        refusal, number = _REPLY.unpack(reply)
        if refusal:
            raise OSError(refusal, os.strerror(refusal))
        return int(number)

    def close(self) -> None:
        """Close the socket; the zygote then ends."""
        self._socket.close()


class OrderReceiver:
    """The zygote's end."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)

    def say_ready(self) -> None:
        """Tell the broker that orders can come."""
        self._socket.send(_READY)

    def next(self) -> Fork | Reap | None:
        """Wait for an order; return None when no more will come. The receiver closes the descriptors."""
        while True:
            message, descriptors, is_whole = self._receive()
            if not message:
                return None
            name, _, subject = message.decode().partition(" ")
            if name == "reap":
                return Reap(int(subject))
            if is_whole and len(descriptors) == len(subject.split(",")):
                return Fork(",".join(map(str, descriptors)), descriptors)
            close_all(descriptors)
            self.refuse(errno.EMFILE)

    def _receive(self) -> tuple[bytes, list[int], bool]:
        # Not `socket.recv_fds`, which ignores its `flags` argument.
        message, ancillary, flags, _ = self._socket.recvmsg(_MAX_ORDER, _ROOM, socket.MSG_CMSG_CLOEXEC)
        descriptors = array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        return message, descriptors.tolist(), not flags & socket.MSG_CTRUNC

    def reply(self, number: int) -> None:
        """Report the result of the order."""
        self._socket.send(_REPLY.pack(0, number))

    def refuse(self, reason: int) -> None:
        """Report that the order failed, with an errno."""
        self._socket.send(_REPLY.pack(reason, 0))

    def close(self) -> None:
        """Close."""
        self._socket.close()


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came with an order."""
    for descriptor in descriptors:
        os.close(descriptor)
