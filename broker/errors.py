"""The broker's errors: each dispatch error knows why, and every front end translates that to its own code."""

from collections.abc import Sequence
from typing import Final

from tykpy.ipc.frame import Status
from tykpy.ipc.text import bounded

MAX_MESSAGE: Final = 4_096
"""Characters of a message that goes to a peer: the names in it are the peer's own, and may be as long as a request."""


class BrokerError(Exception):
    """Root of the broker's errors; the message is for the person who runs it."""


class ConfigError(BrokerError):
    """An option that cannot work, said by its name."""


class AddressError(ConfigError):
    """What is given as an address is none."""


class ListenError(BrokerError):
    """A listening socket could not be had."""


class DialError(BrokerError, OSError):
    """A client's connection did not come about, and why."""


class NoWorkerError(BrokerError):
    """No worker of the pool can start."""


class WorkerStartError(BrokerError):
    """One worker cannot be started: the machine has nothing left to start it with."""


class ReloadError(BrokerError):
    """The new content is not served, and why; what was served before still is."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__("\n".join((message, *problems)))
        self.message = message
        self.problems = tuple(problems)

    def brief(self, most: int) -> str:
        """The message with so many of the problems, in one line."""
        named = "; ".join(self.problems[:most]) + ("; and others" if len(self.problems) > most else "")
        return f"{self.message}: {named}" if named else self.message


class UpgradeError(BrokerError):
    """The new program does not take over, and why; this one goes on."""


class DispatchError(BrokerError):
    """One dispatch failed; `status` says why, the message says what, where and what to do."""

    def __init__(self, status: Status, message: str) -> None:
        message = bounded(message, MAX_MESSAGE)
        super().__init__(message)
        self.status = status
        self.message = message


class WireError(BrokerError):
    """A peer sent what is not MessagePack-RPC; its connection ends. `id` is the call's, as encoded, or empty."""

    def __init__(self, status: Status, message: str, call_id: bytes = b"") -> None:
        message = bounded(message, MAX_MESSAGE)
        super().__init__(message)
        self.status = status
        self.message = message
        self.id = call_id


class RpcError(BrokerError):
    """A MessagePack-RPC call failed: `code` is a name of `ipc.frame.Status`, or empty where the server gave none."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.message = message
