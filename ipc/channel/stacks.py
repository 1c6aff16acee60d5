"""The stacks that a worker writes on a signal, although a hook keeps the interpreter lock and no Python code runs.

faulthandler writes into a pipe whose other end the broker has. Neither end waits: what does not fit is lost.
"""

import os
import signal
from contextlib import ExitStack
from typing import Final

STACKS_SIGNAL: Final = signal.SIGRTMIN + 9
"""Asks a worker to write its stacks into the pipe; SIGUSR2 lets it write them to the log."""
MAX_STACKS: Final = 65536
"""Bytes; a pipe holds no more."""


class StacksPipe:
    """The broker's end."""

    def __init__(self, own: ExitStack, worker: ExitStack) -> None:
        self._reader, self.worker_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        own.callback(os.close, self._reader)
        worker.callback(os.close, self.worker_fd)

    def read(self) -> bytes:
        """Return what the worker has written since the last call, which may be anything."""
        try:
            return os.read(self._reader, MAX_STACKS)
        except BlockingIOError:
            return b""
