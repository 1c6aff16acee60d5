"""A small blocking MessagePack-RPC client for Unix sockets, used by the command line."""

import time
from contextlib import AbstractContextManager, suppress
from os import PathLike, fspath
from typing import Any, Final

import msgpack

from tykpy.broker.errors import RpcError
from tykpy.broker.msgpackrpc.wire import ANSWER, REQUEST
from tykpy.client.unix import connect_unix
from tykpy.ipc.frame import Status

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for a call."""
READ_SIZE: Final = 256 * 1024
MAX_ANSWER: Final = 1024 * 1024 * 1024
"""Bytes of one answer: the server limits them; this only stops a broken server."""

_CALL_ID: Final = 0
_CODES: Final = frozenset(status.name for status in Status)


class RpcClient(AbstractContextManager["RpcClient"]):
    """One connection, for one call at a time.

    Every failure is an RpcError: with the server's code for a failed call, EXPIRED after the timeout, and UNAVAILABLE
    for a broken connection. The client cannot be used any more after the last two.
    """

    def __init__(self, path: str | PathLike[str], timeout: float = DEFAULT_TIMEOUT) -> None:
        self._timeout = timeout
        self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_ANSWER, strict_map_key=False)
        try:
            self._socket = connect_unix(path, timeout)
        except OSError as error:
            text = f"cannot connect to {fspath(path)}: {error.strerror or error}"
            raise RpcError(Status.UNAVAILABLE.name, text) from error

    def close(self) -> None:
        """Close the connection; the server cancels a call that it has not answered."""
        self._socket.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a method and wait for its result; `timeout` in seconds. Raises RpcError."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        request = msgpack.packb([REQUEST, _CALL_ID, method, list(params)], use_bin_type=True)
        try:
            kind, _, error, result = self._exchange(request, deadline)
            if kind != ANSWER:
                raise ValueError(f"message type {kind!r}")
        except TimeoutError as late:
            self.close()  # or the late answer would be taken for the next one
            raise RpcError(Status.EXPIRED.name, "no answer in time") from late
        except OSError as broken:
            self.close()
            raise RpcError(Status.UNAVAILABLE.name, f"the connection broke: {broken}") from broken
        except (TypeError, ValueError, msgpack.UnpackException) as nonsense:
            raise RpcError(Status.INTERNAL.name, f"the server answered nonsense: {nonsense}") from nonsense
        if error is not None:
            raise _error_of(error)
        return result

    def _exchange(self, request: bytes, deadline: float) -> Any:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent: there is an answer
            self._limit(deadline)
            self._socket.sendall(request)
        while True:
            self._limit(deadline)
            data = self._socket.recv(READ_SIZE)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._unpacker.feed(data)
            for answer in self._unpacker:
                return answer

    def _limit(self, deadline: float) -> None:
        """Let the next step take the time that is left. Raises TimeoutError if there is none."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def _error_of(error: Any) -> RpcError:
    text = error if isinstance(error, str) else repr(error)
    code, separator, message = text.partition(": ")
    return RpcError(code, message) if separator and code in _CODES else RpcError("", text)
