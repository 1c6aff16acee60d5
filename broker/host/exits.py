"""The exit codes of `tykpy broker`, for service managers and for the program that it replaces in an upgrade."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How `tykpy broker` ends."""

    OK = 0
    FAULT = 1
    USAGE = 2
    NO_WORKER = 3
    CANNOT_LISTEN = 4

    @property
    def words(self) -> str:
        """The meaning, as it follows `exited with code N`."""
        return _WORDS[self]


_WORDS = {
    ExitCode.OK: "told to stop",
    ExitCode.FAULT: "a fault, or it would not serve what is served now",
    ExitCode.USAGE: "wrong options",
    ExitCode.NO_WORKER: "no worker can start",
    ExitCode.CANNOT_LISTEN: "an address cannot be listened on",
}
