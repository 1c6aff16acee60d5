"""The broker's errors. Front ends translate the status of a dispatch error to their own codes."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from tykpy.ipc.frame import Status
from tykpy.ipc.text import bounded

MAX_MESSAGE: Final = 4_096
"""Longest message to a peer, in characters: it contains the peer's own names, which may be as long as a request."""


class BrokerError(Exception):
    """Root of the broker's errors; the message is for the operator."""


class ConfigError(BrokerError):
    """Options that cannot work; each problem names its own."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class AddressError(ConfigError):
    """Something that is not an address was given as one."""


class ListenError(BrokerError):
    """A listening socket could not be opened.

    `owner`: pid of the process that uses the address; 0 if that is not the reason, or if it may not be seen.
    """

    def __init__(self, message: str, owner: int = 0) -> None:
        super().__init__(message)
        self.owner = owner


class DialError(BrokerError, OSError):
    """A client could not connect."""


class NoWorkerError(BrokerError):
    """No worker of the pool can start."""


class WorkerStartError(BrokerError):
    """One worker cannot be started: the machine lacks the resources."""


class ReloadError(BrokerError):
    """A reload was refused; what was served before still is."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n".join((message, *problems)))
        self.message = message
        self.problems = tuple(problems)

    def brief(self, most: int) -> str:
        """Return the message with the first problems, in one line."""
        named = "; ".join(self.problems[:most]) + ("; and others" if len(self.problems) > most else "")
        return f"{self.message}: {named}" if named else self.message


class UpgradeError(BrokerError):
    """The new program does not take over; the old one continues."""


class Rejection(StrEnum):
    """Why a dispatch is not run, as metrics name it."""

    BREAKER_OPEN = "breaker_open"
    BYTES = "bytes"
    """Limited by --queue-bytes."""
    DRAINING = "draining"
    INVALID = "invalid"
    """The message does not decode."""
    NO_WORKERS = "no_workers"
    QUARANTINED = "quarantined"
    QUEUE_FULL = "queue_full"
    """Limited by --queue-size."""
    SHED = "shed"
    """Limited by --queue-wait."""


class DispatchError(BrokerError):
    """One dispatch failed; `status` is the reason, the message says what happened, where and what to do."""

    def __init__(self, status: Status, message: str, rejection: Rejection | None = None) -> None:
        """`rejection`: why it was not run, if it was rejected."""
        message = bounded(message, MAX_MESSAGE)
        super().__init__(message)
        self.status = status
        self.message = message
        self.rejection = rejection


class WireError(BrokerError):
    """A peer sent something other than MessagePack-RPC; its connection ends. `id`: the call's, if known."""

    def __init__(self, status: Status, message: str, call_id: int | None = None) -> None:
        message = bounded(message, MAX_MESSAGE)
        super().__init__(message)
        self.status = status
        self.message = message
        self.id = call_id


class RpcError(BrokerError):
    """A MessagePack-RPC call failed; `code` is a name of `ipc.frame.Status`, or empty if the server gave none."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.message = message
