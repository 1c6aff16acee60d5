"""Doorbells: what was stored before a token was rung in is visible after the token was taken.

Requests: a pipe with one byte per token, and a token is a claim. A worker takes one for each request that it starts,
the broker takes back what is left, and the pipe's lock in the kernel decides between them. Only the broker writes to
it.
Answers: an eventfd (or a pipe), whose tokens are only counted.
"""

import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final, Protocol

from tykpy.ipc.errors import RingCorruptError

MAX_TOKENS: Final = 4096
"""Tokens that are always written whole and never fill a pipe (POSIX guarantees 512, Linux 4096 of 65536)."""

# Workers hold on to what they use for every request: plugin code may replace what is in `os`, as gevent.monkey does.
_read: Final = os.read
_write: Final = os.write

_TOKEN: Final = b"\0"
_END: Final = b"\1"
"""Behind the last token: no more will come. It claims nothing."""
_COUNTER_BYTES: Final = 8
_PIPE_READ: Final = 65536
_FROM_HERE: Final = -1
"""preadv's offset for what has no position."""


class RequestDoorbell:
    """The broker's end. The worker has nothing to write to: with a token of its own it could undo its claims."""

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        reader, self._writer = os.pipe()
        worker.callback(os.close, reader)
        own.callback(os.close, self._writer)
        os.set_blocking(self._writer, False)
        self._reader = _reopen_without_waiting(reader)
        own.callback(os.close, self._reader)
        self.worker_fd = reader

    def ring(self, tokens: int) -> None:
        """Put tokens in, at most `MAX_TOKENS`. Raises RingCorruptError where somebody has filled the pipe."""
        self._put(_TOKEN * tokens)

    def end(self) -> None:
        """Say that no more tokens will come: `take` returns 0 once it has taken those that are left."""
        self._put(_END)

    def take_back(self, rung: int) -> int:
        """Take back the tokens that nobody has claimed, of `rung` that are not answered; never waits.

        Raises RingCorruptError where there is something in the pipe that the broker has not put there.
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
        self._poll = select.poll()
        self._poll.register(reader, select.POLLIN)

    def take(self) -> bool:
        """Wait for a token and claim it; False for good when no more will come, or the broker is gone."""
        while not self._ended:
            try:
                token = _read(self._reader, 1)
            except BlockingIOError:
                self._poll.poll()  # only where the broker could not get a reader of its own
                continue
            if token == _TOKEN:
                return True
            self._ended = True
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._reader)


class AnswerDoorbell(Protocol):
    """The broker's end of the answers' doorbell. Nothing that a worker does to its own end makes it wait."""

    kind: str
    fd: int
    """Readable while there are tokens."""
    worker_fd: int

    def take_all(self) -> int:
        """Take all tokens, 0 if there are none."""


class EventDoorbell:
    """A Linux eventfd that counts."""

    kind = "eventfd"

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        self.fd = self.worker_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        own.callback(os.close, self.fd)
        self._count = bytearray(_COUNTER_BYTES)
        self._words = memoryview(self._count).cast("Q")
        self._buffers = [self._count]
        # Whether a read of an eventfd may wait is written in the open file, which the worker shares and can change. A
        # read that says so itself does not wait, whatever is written there.
        self._flags = os.RWF_NOWAIT
        self.take_all()

    def take_all(self) -> int:
        """Take all tokens."""
        try:
            os.preadv(self.fd, self._buffers, _FROM_HERE, self._flags)
        except BlockingIOError:
            return 0
        return self._words[0]


class PipeDoorbell:
    """The same where there is no such eventfd: one byte per token, credits keep the pipe from filling up."""

    kind = "pipe"

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        self.fd, self.worker_fd = os.pipe()
        own.callback(os.close, self.fd)
        worker.callback(os.close, self.worker_fd)
        for end in (self.fd, self.worker_fd):
            os.set_blocking(end, False)

    def take_all(self) -> int:
        """Take all tokens."""
        try:
            return len(os.read(self.fd, _PIPE_READ))
        except BlockingIOError:
            return 0


class RingBell:
    """The worker's end of either."""

    def __init__(self, kind: str, descriptor: int) -> None:
        self._descriptor = descriptor
        self.ring: Callable[[int], object] = self._put
        """Put tokens in; never waits."""
        if kind == EventDoorbell.kind:
            self.ring = partial(os.eventfd_write, descriptor)

    def _put(self, tokens: int) -> None:
        _write(self._descriptor, _TOKEN * tokens)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


ANSWER_KINDS: Final = (EventDoorbell.kind, PipeDoorbell.kind)


def create_answer_doorbell(own: ExitStack, worker: ExitStack) -> AnswerDoorbell:
    """The best one that this system has."""
    try:
        return EventDoorbell(own, worker)
    except (AttributeError, OSError):
        # No eventfd, or (before Linux 5.8) none that can be read without waiting.
        return PipeDoorbell(own, worker)


def _reopen_without_waiting(reader: int) -> int:
    # Whether a read waits is a property of the open file, which both processes share: the worker's reads must wait
    # and the broker's must not, so the broker opens the pipe once more. Without /proc nobody waits; the worker polls.
    try:
        return os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        os.set_blocking(reader, False)
        return os.dup(reader)
