"""Doorbells: stores made before a token was written are visible after it was read.

Requests: a pipe with one byte per token, and a token is a claim. A worker reads one for each request that it starts,
the broker reads back those that are left, and the kernel's lock on the pipe decides between them. Only the broker
writes.
Answers: an eventfd, whose tokens are only counted.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from tykpy.ipc.errors import RingCorruptError

MAX_TOKENS: Final = 4096
"""Most tokens in one write: written whole (PIPE_BUF), and far from filling a pipe (65536)."""

# Workers bind the functions that they call for every request: plugins may replace those in `os` (gevent.monkey does).
_read: Final = os.read

_TOKEN: Final = b"\0"
_END: Final = b"\1"
"""Written behind the last token: no more will come. It claims nothing."""
_COUNTER_BYTES: Final = 8
_PIPE_READ: Final = 65536
_FROM_HERE: Final = -1
"""preadv's offset for what has no position."""


class RequestDoorbell:
    """The broker's end of the requests' doorbell. Workers have no write end: their own tokens could undo a claim."""

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        reader, self._writer = os.pipe()
        worker.callback(os.close, reader)
        own.callback(os.close, self._writer)
        os.set_blocking(self._writer, False)
        # Whether a read waits is a property of the open file, which both processes share: the worker's reads must wait
        # and the broker's must not, so the broker opens the pipe once more.
        self._reader = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        own.callback(os.close, self._reader)
        self.worker_fd = reader

    def ring(self, tokens: int) -> None:
        """Write tokens, at most `MAX_TOKENS`. Raises RingCorruptError if somebody has filled the pipe."""
        self._put(_TOKEN * tokens)

    def end(self) -> None:
        """Announce that no more tokens will come: `take` returns False after those that are left."""
        self._put(_END)

    def take_back(self, rung: int) -> int:
        """Take back all unclaimed tokens without waiting; at most `rung` can be there.

        Raises RingCorruptError if the pipe holds anything that the broker has not written.
        """
        try:
            taken = os.read(self._reader, _PIPE_READ)
        except BlockingIOError:
            return 0
        ends = taken.count(_END)
        tokens = taken.count(_TOKEN)
        if ends:
            self._put(_END)
        if tokens > rung or tokens + ends != len(taken):
            raise RingCorruptError("tokens that nobody has rung", found=len(taken), rung=rung)
        return tokens

    def _put(self, tokens: bytes) -> None:
        try:
            os.write(self._writer, tokens)
        except BlockingIOError as error:
            raise RingCorruptError("the request doorbell is full", tokens=len(tokens)) from error


class ClaimDoorbell:
    """The worker's end of a RequestDoorbell; `take` is called by one thread at a time."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._ended = False

    def take(self) -> bool:
        """Wait for a token and claim it; return False once no more will come, or the broker is gone."""
        if not self._ended and _read(self._reader, 1) == _TOKEN:
            return True
        self._ended = True
        return False

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._reader)


class AnswerDoorbell:
    """The broker's end of the answers' doorbell. Nothing that a worker does to the shared eventfd can block it.

    Raises OSError if the machine has no descriptors left.
    """

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        self.fd = self.worker_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable while there are tokens; the worker inherits the same."""
        own.callback(os.close, self.fd)
        self._count = bytearray(_COUNTER_BYTES)
        self._words = memoryview(self._count).cast("Q")
        self._buffers = [self._count]
        # Whether reading an eventfd blocks is a flag of the open file, which the worker shares and can change. A read
        # with RWF_NOWAIT does not block, whatever that flag says.
        self._flags = os.RWF_NOWAIT
        self.take_all()

    def take_all(self) -> int:
        """Read all tokens; returns their number, 0 if there are none."""
        try:
            os.preadv(self.fd, self._buffers, _FROM_HERE, self._flags)
        except BlockingIOError:
            return 0
        return self._words[0]


class RingBell:
    """The worker's end of an AnswerDoorbell."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ring: Callable[[int], object] = partial(os.eventfd_write, descriptor)
        """Write tokens; never waits."""

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
