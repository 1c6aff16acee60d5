"""A blocking MessagePack-RPC client for Unix sockets with many calls under way, and notifications."""

import select
import socket
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from os import PathLike, fspath
from typing import Any, Final

import msgpack

from tykpy.broker.errors import RpcError
from tykpy.broker.msgpackrpc.wire import ANSWER, MAX_ID, NOTIFICATION, REQUEST
from tykpy.ipc.frame import Status

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for a call, or for a whole pipeline."""
READ_SIZE: Final = 256 * 1024
MAX_ANSWER: Final = 1024 * 1024 * 1024
"""Bytes of one answer: the server limits them; this only stops a broken server."""

_CODES: Final = frozenset(status.name for status in Status)


class PipelinedRpcClient(AbstractContextManager["PipelinedRpcClient"]):
    """One connection; not for several threads at once.

    Every failure is an RpcError: with the server's code for a failed call, EXPIRED after the timeout, and UNAVAILABLE
    for a broken connection, after which the client cannot be used any more.
    """

    def __init__(self, path: str | PathLike[str], timeout: float = DEFAULT_TIMEOUT) -> None:
        self._timeout = timeout
        self._next_id = 0
        self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_ANSWER, strict_map_key=False)
        self._socket = _connect(fspath(path), timeout)

    def close(self) -> None:
        """Close the connection; the server cancels calls that it has not answered."""
        self._socket.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a method and wait for its result; `timeout` in seconds. Raises RpcError."""
        (outcome,) = self.pipeline([(method, params)], timeout=timeout)
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    def pipeline(self, calls: Iterable[tuple[str, Iterable[Any]]], timeout: float | None = None) -> list[Any]:
        """Send all calls at once; return their results in order, with an RpcError in place of each that failed.

        Raises RpcError if the connection breaks or the time passes before the last answer.
        """
        ids: list[int] = []
        frames: list[bytes] = []
        for method, params in calls:
            ids.append(self._next_id)
            frames.append(_pack([REQUEST, self._next_id, method, list(params)]))
            self._next_id = (self._next_id + 1) & MAX_ID
        outcomes = self._exchange(b"".join(frames), set(ids), timeout)
        return [outcomes[call_id] for call_id in ids]

    def notify(self, method: str, *params: Any) -> None:
        """Send a notification: nothing comes back, not even an error."""
        self._exchange(_pack([NOTIFICATION, method, list(params)]), set(), None)

    def _exchange(self, data: bytes, waiting: set[int], timeout: float | None) -> dict[int, Any]:
        # Reading goes on while sending: a server stops reading from a peer that does not take its answers.
        if self._socket.fileno() < 0:
            raise RpcError(Status.UNAVAILABLE.name, "this client is closed")
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        outcomes: dict[int, Any] = {}
        unsent, notifying = memoryview(data), not waiting
        while waiting or (notifying and unsent):
            readable, writable = self._wait(bool(unsent), deadline)
            if not (readable or writable):
                raise self._out_of_time(cut_off=bool(unsent))
            if readable:
                self._receive(waiting, outcomes)
            elif writable:
                unsent = unsent[self._send(unsent) :]
        if unsent:  # refused before it was sent whole
            self.close()
        return outcomes

    def _wait(self, sending: bool, deadline: float) -> tuple[bool, bool]:
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if sending else 0))
        events = poll.poll(max(0.0, left) * 1000)
        mask = events[0][1] if events else 0
        return bool(mask & ~select.POLLOUT), bool(mask & select.POLLOUT)

    def _out_of_time(self, cut_off: bool) -> RpcError:
        if cut_off:  # half a message has been sent: nothing can follow it
            self.close()
        return RpcError(Status.EXPIRED.name, "no answer in time")

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise RpcError(Status.UNAVAILABLE.name, f"the connection broke: {error}") from error

    def _receive(self, waiting: set[int], outcomes: dict[int, Any]) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            raise RpcError(Status.UNAVAILABLE.name, f"the connection broke: {error}") from error
        if not data:
            raise RpcError(Status.UNAVAILABLE.name, "the server closed the connection")
        self._unpacker.feed(data)
        try:
            for answer in self._unpacker:
                self._take(answer, waiting, outcomes)
        except (TypeError, ValueError, msgpack.UnpackException) as error:
            raise RpcError(Status.INTERNAL.name, f"the server answered nonsense: {error}") from error

    def _take(self, answer: Any, waiting: set[int], outcomes: dict[int, Any]) -> None:
        kind, call_id, error, result = answer
        if kind != ANSWER:
            raise ValueError(f"message type {kind!r}")
        if call_id is None:
            raise _error_of(error)  # the server could not read the id of what it refuses, and closes
        if call_id in waiting:  # else: the late answer of a call that ran out of time
            waiting.discard(call_id)
            outcomes[call_id] = result if error is None else _error_of(error)


def _connect(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.setblocking(False)
    except OSError as error:
        connection.close()
        raise RpcError(Status.UNAVAILABLE.name, f"cannot connect to {path}: {error.strerror or error}") from error
    return connection


def _error_of(error: Any) -> RpcError:
    text = error if isinstance(error, str) else repr(error)
    code, separator, message = text.partition(": ")
    return RpcError(code, message) if separator and code in _CODES else RpcError("", text)


def _pack(message: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(message, use_bin_type=True)
    return packed
