"""Connect to a Unix socket, also while many others do."""

import os
import socket
from struct import Struct
from typing import Final

_TIMEVAL: Final = Struct("ll")
"""struct timeval: seconds and microseconds."""


def connect_unix(path: str | os.PathLike[str], timeout: float) -> socket.socket:
    """Connect to a Unix socket, and wait for a place in its queue if that is full. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel waits: to a socket with Python's own timeout it says EAGAIN at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
        sock.connect(os.fspath(path))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
        sock.settimeout(timeout)
    except BlockingIOError as error:
        sock.close()
        raise TimeoutError(error.errno, f"nobody accepted the connection within {timeout:g} s") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _timeval(seconds: float) -> bytes:
    """Encode a time for the kernel, for which 0 is for ever."""
    return _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000) or (0 < seconds < 1))
