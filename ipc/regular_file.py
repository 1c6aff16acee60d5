"""Read files that may be anything: a FIFO waits for its other end when it is opened, and /dev/zero never ends."""

import errno
import os
import stat
from io import BufferedReader
from typing import Final

_REFUSAL: Final = "not a regular file"


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read bytes. Raises OSError, also if it is a FIFO, a device or a socket."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, _REFUSAL, os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_at_most(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return up to `limit` bytes of anything that can be read, also a pipe. Raises OSError if there are more."""
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", os.fspath(path))
    return content
