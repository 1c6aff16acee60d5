"""Errors of bundles and workers: a bundle that does not load, a dispatch that fails, a worker that cannot start."""

from collections.abc import Mapping
from typing import Final

from tykpy.ipc.description import MAX_FILE, MAX_MESSAGE
from tykpy.ipc.frame import Status
from tykpy.ipc.text import bounded

EVENT_META: Final = "event"
"""Key in the meta of an error that leaves an event without a handler: the broker logs these, once for all workers."""
_MAX_LINE: Final = 2**31 - 1


class WorkersError(Exception):
    """Root of everything raised by `bundles` and `workers`."""


class WorkerError(WorkersError):
    """One dispatch failed; the worker continues. `meta` names what failed: `{"bundle": ..., "hook": ...}`."""

    def __init__(self, status: Status, message: str, meta: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.meta = meta


class WrongReturnError(WorkersError):
    """A hook returned something that its shape does not allow; the message names both."""

    file: str = ""
    """Where the hook is, once that is known."""
    line: int = 0


class BundleError(WorkersError):
    """A bundle, or one of its hooks, cannot be used. Line 0: unknown.

    The text may come from plugin code: it is bounded here, for everything that reports it later.
    """

    def __init__(self, message: str, file: str = "", line: int = 0) -> None:
        self.message = bounded(message, MAX_MESSAGE)
        self.file = bounded(file, MAX_FILE)
        self.line = line if 0 <= line <= _MAX_LINE else 0
        super().__init__(self.message)

    def __str__(self) -> str:
        """Put the place before the message, as compilers do."""
        if not self.file:
            return self.message
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}"


class ManifestError(BundleError):
    """`manifest.json` is not JSON, or has an impossible value."""


class ArchiveError(BundleError):
    """A ZIP is damaged, or holds entries that no bundle may hold."""


class VerificationError(BundleError):
    """A bundle's files are not those that its manifest was made for."""


class SignatureError(VerificationError):
    """A bundle is not signed, or not by the trusted key."""


class LimitError(WorkersError):
    """No worker can start with this limit."""


class KeyFileError(WorkersError):
    """A file holds no suitable key, or the package that reads keys is missing."""
