"""Doorbells: what was stored before a token was rung in is visible after the token was taken.

Requests: a pipe with one byte per token, and a token is a claim. A worker takes as many as it starts requests, the
broker takes back what is left, and the pipe's lock in the kernel decides between them.
Answers: an eventfd (or a pipe), whose tokens are only counted.
"""

import os
import select
import sys
from contextlib import ExitStack
from typing import Final, Protocol, Self

from ipc.errors import RingCorruptError

MAX_TOKENS: Final = 4096
"""Tokens that are always written whole and never fill a pipe (POSIX guarantees 512, Linux 4096 of 65536)."""

_TOKEN: Final = b"\0"
_WAKE: Final = b"\1"
"""In the place of a token: whoever waits shall look around. It claims nothing."""
_COUNTER_BYTES: Final = 8
_PIPE_READ: Final = 65536


class RequestDoorbell:
    """The broker's end."""

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        reader, self._writer = os.pipe()
        worker.callback(os.close, reader)
        own.callback(os.close, self._writer)
        os.set_blocking(self._writer, False)
        self._reader = _reopen_without_waiting(reader)
        own.callback(os.close, self._reader)
        self.worker_fds = (reader, self._writer)

    def ring(self, tokens: int) -> None:
        """Put tokens in, at most `MAX_TOKENS`. Raises RingCorruptError where the worker has filled the pipe."""
        self._put(_TOKEN * tokens)

    def take_back(self, most: int) -> int:
        """Take back up to `most` tokens that nobody has claimed; never waits."""
        try:
            taken = os.read(self._reader, most + 1)
        except BlockingIOError:
            return 0
        if _WAKE in taken:
            self._put(_WAKE)
        return min(taken.count(_TOKEN), most)

    def _put(self, tokens: bytes) -> None:
        try:
            os.write(self._writer, tokens)
        except BlockingIOError as error:
            raise RingCorruptError("the request doorbell is full", tokens=len(tokens)) from error


class ClaimDoorbell:
    """The worker's end of a RequestDoorbell; `take` is called by one thread at a time."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._poll = select.poll()
        self._poll.register(reader, select.POLLIN)

    def take(self, most: int) -> int:
        """Wait for tokens and claim up to `most`; 0 after a `wake`."""
        while True:
            try:
                return os.read(self._reader, most).count(_TOKEN)
            except BlockingIOError:
                self._poll.poll()  # only where the broker could not get a reader of its own

    def wake(self) -> None:
        """Let `take` return."""
        os.write(self._writer, _WAKE)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self._writer)


class AnswerDoorbell(Protocol):
    """Either end of the answers' doorbell; both have the same descriptors."""

    kind: str
    fds: tuple[int, ...]
    """The first one is readable while there are tokens."""

    def ring(self, tokens: int) -> None:
        """Put tokens in; never waits."""

    def take_all(self) -> int:
        """Take all tokens, 0 if there are none."""

    def close(self) -> None:
        """Give the descriptors back."""


class EventDoorbell:
    """A Linux eventfd that counts."""

    kind = "eventfd"

    def __init__(self, counter: int) -> None:
        self._counter = counter
        self.fds: tuple[int, ...] = (counter,)

    @classmethod
    def create(cls) -> Self:
        """A new one."""
        return cls(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def ring(self, tokens: int) -> None:
        """Put tokens in."""
        os.eventfd_write(self._counter, tokens)

    def take_all(self) -> int:
        """Take all tokens."""
        try:
            return int.from_bytes(os.read(self._counter, _COUNTER_BYTES), sys.byteorder)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._counter)


class PipeDoorbell:
    """The same where there is no eventfd: one byte per token, credits keep the pipe from filling up."""

    kind = "pipe"

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self.fds: tuple[int, ...] = (reader, writer)

    @classmethod
    def create(cls) -> Self:
        """A new one."""
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        return cls(*ends)

    def ring(self, tokens: int) -> None:
        """Put tokens in."""
        os.write(self._writer, _TOKEN * tokens)

    def take_all(self) -> int:
        """Take all tokens."""
        try:
            return len(os.read(self._reader, _PIPE_READ))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self._writer)


def create_answer_doorbell() -> AnswerDoorbell:
    """The best one that this system has."""
    return EventDoorbell.create() if hasattr(os, "eventfd") else PipeDoorbell.create()


def attach_answer_doorbell(kind: str, fds: list[int]) -> AnswerDoorbell:
    """The worker's end."""
    return EventDoorbell(*fds) if kind == EventDoorbell.kind else PipeDoorbell(*fds)


ANSWER_FDS: Final = {EventDoorbell.kind: 1, PipeDoorbell.kind: 2}
"""Descriptors of each kind."""


def _reopen_without_waiting(reader: int) -> int:
    # Whether a read waits is a property of the open file, which both processes share: the worker's reads must wait
    # and the broker's must not, so the broker opens the pipe once more. Without /proc nobody waits; the worker polls.
    try:
        return os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        os.set_blocking(reader, False)
        return os.dup(reader)
