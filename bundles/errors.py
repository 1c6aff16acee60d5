"""What can go wrong in a worker: a bundle that does not load, or one dispatch that fails."""

from collections.abc import Mapping
from typing import Final

from tykpy.ipc.description import MAX_FILE, MAX_MESSAGE
from tykpy.ipc.frame import Status
from tykpy.ipc.text import bounded

EVENT_META: Final = "event"
"""What an error's meta names where no event handler could be chosen: the broker logs these, once for all workers."""
_MAX_LINE: Final = 2**31 - 1


class WorkersError(Exception):
    """Root of everything raised by `workers`."""


class WorkerError(WorkersError):
    """One dispatch failed; the worker goes on. `meta` names what failed: `{"bundle": ..., "hook": ...}`."""

    def __init__(self, status: Status, message: str, meta: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.meta = meta


class WrongReturnError(WorkersError):
    """A hook returned something else than its shape asks for; the message says both."""


class BundleError(WorkersError):
    """A bundle, or one of its hooks, cannot be used: what is wrong, in which file, in which line (0: unknown).

    The text may come from plugin code: it is bounded here, for everything that reports it later.
    """

    def __init__(self, message: str, file: str = "", line: int = 0) -> None:
        self.message = bounded(message, MAX_MESSAGE)
        self.file = bounded(file, MAX_FILE)
        self.line = line if 0 <= line <= _MAX_LINE else 0
        super().__init__(self.message)

    def __str__(self) -> str:
        """Say where before what, as compilers do."""
        if not self.file:
            return self.message
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}"


class ManifestError(BundleError):
    """`manifest.json` is not JSON, or says something impossible."""


class ArchiveError(BundleError):
    """A ZIP is damaged, or holds what no bundle may hold."""


class VerificationError(BundleError):
    """A bundle's files are not those its manifest was made for."""


class SignatureError(VerificationError):
    """A bundle is not signed, or not by the key that we trust."""


class LimitError(WorkersError):
    """A limit with which no worker can start."""


class KeyFileError(WorkersError):
    """A file does not hold the key it should, or nothing is installed that can use it."""
